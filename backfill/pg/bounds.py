"""The bounds of a run as PostgreSQL reads them: each part of a key is cast to its column's type.

I6: nothing of a key is compared or parsed here but JSON's brackets; what the ledger keeps is the
type's own text, so that one key given in two ways is one key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import psycopg
from psycopg import sql

from backfill.errors import UsageError
from backfill.job.bounds import Bounds, KeyPart, parts
from backfill.model import Key
from backfill.pg.catalog import as_template, identifier, identifiers
from backfill.pg.connect import READ_LIMITS, Connection, transaction
from backfill.pg.keyset import Keyset, bound
from backfill.pg.ledger import ResolvedSource, Run

_FLAGS = {"from_key": "--from", "to_key": "--to"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """Bounds as the ledger keeps them."""

    from_key: Key | None = None
    to_key: Key | None = None
    limit: int | None = None


def resolve(
    conn: Connection,
    source: ResolvedSource,
    bounds: Bounds,
    *,
    keyset: Keyset,
    arguments: Mapping[str, Any],
) -> Resolved:
    """Let PostgreSQL read the keys. No transaction may be open.

    Args:
        keyset: how the source is walked.
        arguments: parameters by placeholder, for a source that is a query.

    Raises:
        UsageError: a key is malformed, has too few or too many parts, or there can be none
            between the two.
    """
    found = _read_keys(conn, source, bounds)
    if found.from_key is None or found.to_key is None:
        return found
    if not _is_before(conn, keyset, arguments, found.from_key, found.to_key):
        raise UsageError(
            "--from (from_key) does not come before --to (to_key) in the order of the key"
            f" ({', '.join(source.key)})",
            remedy="--from is the first key that is taken, --to the first that is not any more.",
        )
    return found


def _read_keys(conn: Connection, source: ResolvedSource, bounds: Bounds) -> Resolved:
    return Resolved(
        from_key=_key(conn, source, "from_key", bounds.from_key),
        to_key=_key(conn, source, "to_key", bounds.to_key),
        limit=bounds.limit,
    )


def _key(
    conn: Connection,
    source: ResolvedSource,
    name: Literal["from_key", "to_key"],
    value: KeyPart | Sequence[KeyPart] | None,
) -> Key | None:
    if value is None:
        return None
    flag = f"{_FLAGS[name]} ({name})"
    texts = _texts(source, flag, value)
    if len(texts) != len(source.key):
        given = "1 value" if len(texts) == 1 else f"{len(texts)} values"
        raise UsageError(
            f"{flag} has {given}; the key of {source.table} has {len(source.key)}"
            f" columns: {_columns(source)}",
            remedy=_right_form(source),
        )
    return tuple(
        _read(conn, flag, column, type_, text)
        for column, type_, text in zip(source.key, source.key_types, texts, strict=True)
    )


def _texts(source: ResolvedSource, flag: str, value: KeyPart | Sequence[KeyPart]) -> Sequence[str]:
    if len(source.key) == 1 or not isinstance(value, str):
        return [str(part) for part in parts(value)]
    try:
        # numbers as they are written: through a float, long ones would become others
        found = json.loads(value, parse_int=str, parse_float=str, parse_constant=str)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise UsageError(
            f"{flag} is no JSON array; the key of {source.table} has {len(source.key)} columns:"
            f" {_columns(source)}",
            remedy=_right_form(source),
        )
    for column, part in zip(source.key, found, strict=False):
        if not isinstance(part, str | bool):
            kind = "null" if part is None else "an array" if isinstance(part, list) else "an object"
            raise UsageError(
                f"{flag}: column {column} is given {kind}, and needs a value",
                remedy="Write each value as a string, a number, true or false.",
            )
    return [str(part) for part in found]


def _columns(source: ResolvedSource) -> str:
    return ", ".join(
        f"{column} ({type_})" for column, type_ in zip(source.key, source.key_types, strict=True)
    )


def _right_form(source: ResolvedSource) -> str:
    if len(source.key) == 1:
        return "Give one value."
    shape = ", ".join(f'"{column}"' for column in source.key)
    return f"Write one value a column, as in '[{shape}]'."


def _read(conn: Connection, flag: str, column: str, type_: str, text: str) -> str:
    """The value's text as its type writes it."""
    try:
        with transaction(conn, READ_LIMITS):
            row = conn.execute(
                sql.SQL("SELECT (%s::{})::text").format(as_template(type_)), [text]
            ).fetchone()
    except psycopg.OperationalError:
        raise
    except (psycopg.Error, UnicodeEncodeError) as error:
        primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
        raise UsageError(
            f"{flag}: column {column} is of type {type_}:"
            f" {primary or 'the text holds what no text of PostgreSQL can hold'}",
            remedy=f"Write a value of type {type_} as PostgreSQL does.",
        ) from error
    if row is None or row[0] is None:
        raise UsageError(f"{flag}: column {column} is given NULL, and needs a value")
    return str(row[0])


def _is_before(
    conn: Connection, keyset: Keyset, arguments: Mapping[str, Any], first: Key, second: Key
) -> bool:
    """Compared as the table's index does: a UNION with no row of it gives the columns' collations.

    Needs no lock but ACCESS SHARE.
    """
    aliases = ("_from", "_to")
    unions = [
        sql.SQL("(SELECT {} FROM {} WHERE false UNION ALL SELECT {}) AS {}").format(
            identifiers(keyset.columns),
            keyset.from_table,
            sql.SQL(", ").join(
                sql.SQL("{}::{}").format(sql.Placeholder(f"{alias}_{i}"), as_template(type_))
                for i, type_ in enumerate(keyset.types)
            ),
            sql.SQL(alias),
        )
        for alias in aliases
    ]
    rows = [
        sql.SQL(", ").join(
            sql.SQL("{}.{}").format(sql.SQL(alias), identifier(column)) for column in keyset.columns
        )
        for alias in aliases
    ]
    with transaction(conn, READ_LIMITS):
        row = conn.execute(
            sql.SQL("SELECT ({}) < ({}) FROM {}, {}").format(*rows, *unions),
            {**arguments, **bound("_from", first), **bound("_to", second)},
        ).fetchone()
    return bool(row and row[0])


def bounds_of(run: Run) -> Bounds:
    """A run's bounds, as another one of the same would be given them."""
    return Bounds(from_key=run.from_key, to_key=run.to_key, limit=run.row_limit)


def is_same(conn: Connection, run: Run, bounds: Bounds) -> bool:
    """Whether a run has these bounds, however their keys are written. No transaction may be open.

    Raises:
        UsageError: a key is malformed.
    """
    return _read_keys(conn, run.resolved, bounds) == Resolved(
        from_key=None if run.from_key is None else tuple(run.from_key),
        to_key=None if run.to_key is None else tuple(run.to_key),
        limit=run.row_limit,
    )


def begin_at(keyset: Keyset, first: Sequence[str] | None) -> Keyset:
    """The keyset whose start form begins at that key; None: at the smallest.

    The key is written into the statements, as a literal: all of a run's have the same.
    """
    if first is None:
        return keyset
    values = [
        sql.SQL("{}::{}").format(sql.Literal(part.replace("%", "%%")), as_template(type_))
        for part, type_ in zip(first, keyset.types, strict=True)
    ]
    begins = sql.SQL("({}) >= ({})").format(keyset.key, sql.SQL(", ").join(values))
    if keyset.leads and len(values) > 1:
        leading = sql.SQL("{} >= {}").format(identifier(keyset.columns[0]), values[0])
        begins = sql.SQL("{} AND {}").format(leading, begins)
    return replace(keyset, begins=begins.as_string(None))
