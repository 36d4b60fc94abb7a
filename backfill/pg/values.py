"""Python values as PostgreSQL's text, for arrays of a column's type.

Every value goes through psycopg's own dumpers, so whatever psycopg can write, a transform may
return. Text, cast by the server to the column's type, serves all types alike and lets the server
judge: what does not fit is a row error, as it would be in plain SQL.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.adapt import PyFormat, Transformer

from backfill.pg.catalog import Column
from backfill.pg.connect import Connection


class UnfitValueError(Exception):
    """A value that cannot be written into its column; says the column and the value's type."""


_PLAIN_TYPES = frozenset({int, str})


class ValueTexts:
    """Turns values into text for one connection."""

    def __init__(self, conn: Connection) -> None:
        self._transformer = Transformer(conn)
        self._encoding = conn.info.encoding

    def all_of(self, column: Column, values: Sequence[Any]) -> list[str | None] | None:
        """The texts of many values of a column at once; None when they must be looked at singly.

        The hot path: text and integers, which need no dumper.
        """
        types = set(map(type, values))
        if column.is_json or not types <= _PLAIN_TYPES:
            return None
        if types == {int}:
            return list(map(str, values))
        if types == {str} and "\x00" not in "".join(values):
            return list(values)
        return None

    def text_of(self, column: Column, value: Any) -> str | None:
        """One value's text.

        Raises:
            UnfitValueError: it has no form in PostgreSQL.
        """
        if value is None:
            return None
        if column.is_json and not hasattr(value, "obj"):  # psycopg's Json and Jsonb have one
            return self._json(column, value)
        if type(value) is int:
            return str(value)
        text = value if type(value) is str else self._dumped(column, value)
        if "\x00" in text:
            raise UnfitValueError(
                f"column {column.name}: the value contains a NUL character, which PostgreSQL"
                " cannot store in text"
            )
        return text

    def _json(self, column: Column, value: Any) -> str:
        try:
            return json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UnfitValueError(
                f"column {column.name}: a value of type {type(value).__name__} cannot be written"
                f" as JSON"
            ) from error

    def _dumped(self, column: Column, value: Any) -> str:
        try:
            data = self._transformer.get_dumper(value, PyFormat.TEXT).dump(value)
        except (psycopg.ProgrammingError, psycopg.DataError) as error:
            raise UnfitValueError(
                f"column {column.name}: a value of type {type(value).__name__} cannot be written"
                " into PostgreSQL"
            ) from error
        if data is None:
            raise UnfitValueError(f"column {column.name}: {type(value).__name__} has no text")
        return bytes(data).decode(self._encoding)
