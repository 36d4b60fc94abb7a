"""Python values as PostgreSQL's text, for arrays of a type.

Every value goes through psycopg's own dumpers, so whatever psycopg can write, a transform may
return, and it becomes what a plain `UPDATE t SET column = %s` makes of it. There, text is read as
the column's own type, and any other value as the type that is its Python type's; the assignment
converts it: a UUID in a text column has its hyphens, 1.5 in an integer column is 2, an aware
datetime in a date column is the day in UTC. Only json differs: a column takes
mappings, lists and text as JSON, and an array of it what is in it, if a mapping is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.adapt import PyFormat, Transformer

from backfill.pg.catalog import Column
from backfill.pg.connect import Connection
from backfill.pg.keyset import array_element


class UnfitValueError(Exception):
    """A value that cannot be written into its column; says the column and the value's type."""


_PLAIN_TYPES = frozenset({int, str})

#: A value's text, and the type to read it as; None: the column's own.
Text = tuple[str | None, str | None]


class ValueTexts:
    """Turns values into text for one connection."""

    def __init__(self, conn: Connection) -> None:
        self._transformer = Transformer(conn)
        self._types = conn.adapters.types
        self._encoding = conn.info.encoding

    def on(self, conn: Connection) -> ValueTexts:
        """The same for another connection."""
        return type(self)(conn)

    def all_of(self, column: Column, values: Sequence[Any]) -> list[str | None] | None:
        """The texts of many values of a column at once; None when they must be looked at singly.

        The hot path: text, and integers for numbers or text, which need no dumper; all are read as
        the column's own type.
        """
        types = set(map(type, values))
        if column.is_json or not types <= _PLAIN_TYPES:
            return None
        if types == {int} and _takes_integers(column):
            return list(map(str, values))
        if types == {str} and self._is_storable("".join(values)):
            return list(values)
        return None

    def text_of(self, column: Column, value: Any) -> Text:
        """One value's text.

        Raises:
            UnfitValueError: it has no form in PostgreSQL.
        """
        if value is None:
            return None, None
        if column.is_json and not hasattr(value, "obj"):  # psycopg's Json and Jsonb have one
            return self._json(column, value), None
        if type(value) is int and _takes_integers(column):
            return str(value), None
        if isinstance(value, list) and column.type.endswith("[]") and _is_mixed(column, value):
            text, type_ = self._list(column, value), None
        else:
            text, type_ = self._dumped(column, value)
        if not self._is_storable(text):
            raise UnfitValueError(
                f"column {column.name}: the value contains a character that PostgreSQL cannot store"
                " in text (NUL, or half of a surrogate pair)"
            )
        return text, type_

    def _is_storable(self, text: str) -> bool:
        if "\x00" in text:
            return False
        if not text.isascii():
            try:
                text.encode(self._encoding)
            except UnicodeEncodeError:
                return False
        return True

    def _json(self, column: Column, value: Any) -> str:
        try:
            return json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UnfitValueError(
                f"column {column.name}: a value of type {type(value).__name__} cannot be written"
                f" as JSON"
            ) from error

    def _list(self, column: Column, values: list[Any]) -> str:
        """A list that psycopg's dumper cannot write: of JSON, or of a type's values and of texts.

        A value that Python has no type for, such as infinity in a date[], was read as its text.
        """
        return "{" + ",".join(self._element(column, value) for value in values) + "}"

    def _element(self, column: Column, value: Any) -> str:
        if value is None:
            return "NULL"
        if _is_of_json(column):
            return array_element(self._json(column, value))
        if isinstance(value, list):
            return self._list(column, value)
        return array_element(self._dumped(column, value)[0])

    def _dumped(self, column: Column, value: Any) -> tuple[str, str | None]:
        if type(value) is str:
            return value, None
        try:
            dumper = self._transformer.get_dumper(value, PyFormat.TEXT)
            data = dumper.dump(value)
        except (psycopg.ProgrammingError, psycopg.DataError, UnicodeEncodeError) as error:
            raise UnfitValueError(
                f"column {column.name}: a value of type {type(value).__name__} cannot be written"
                " into PostgreSQL"
            ) from error
        if data is None:
            raise UnfitValueError(f"column {column.name}: {type(value).__name__} has no text")
        return bytes(data).decode(self._encoding), self._type_name(column, dumper.oid)

    def _type_name(self, column: Column, oid: int) -> str | None:
        if oid in {0, column.base_oid} or (info := self._types.get(oid)) is None:
            return None
        return f"{info.regtype}[]" if oid == info.array_oid else info.regtype


def _takes_integers(column: Column) -> bool:
    """Whether an integer's digits, read as the column's type, are what an assignment makes."""
    return column.category in {"N", "S"}


def _is_of_json(column: Column) -> bool:
    """Whether the column is an array of json or jsonb."""
    return column.type in {"json[]", "jsonb[]"}


def _is_mixed(column: Column, values: list[Any]) -> bool:
    """Whether texts stand beside other values, or, of JSON, there are mappings among them."""
    kinds = set(map(type, values)) - {type(None)}
    if _is_of_json(column):
        return dict in kinds
    if kinds == {list}:
        return any(_is_mixed(column, one) for one in values)
    return str in kinds and len(kinds) > 1


class ReadTexts(ValueTexts):
    """Values that PostgreSQL has made text of already, in another database."""

    def all_of(self, column: Column, values: Sequence[Any]) -> list[str | None] | None:
        del column
        return list(values)

    def text_of(self, column: Column, value: Any) -> Text:
        del column
        return value, None
