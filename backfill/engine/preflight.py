"""What is looked at before a run is written: refused now, rather than found at 3 a.m.

Everything here reads the catalog and asks PostgreSQL to plan our statements; no row is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from backfill.engine.bench import matches
from backfill.engine.columns import copied_columns, update_columns
from backfill.engine.write import Writer
from backfill.errors import DeclarationError, ProjectError, RefusedError
from backfill.job import Delete, Insert, Update
from backfill.job.declaration import Declaration
from backfill.model import Key
from backfill.pg import catalog
from backfill.pg.catalog import Relation
from backfill.pg.connect import READ_LIMITS, Connection, transaction
from backfill.pg.keyset import Keyset, bound, key_arrays
from backfill.pg.ledger import ResolvedSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What the preflight found.

    Attributes:
        relation, columns: what the run writes, to be claimed; `*` stands for deleting rows.
        warnings: sentences for a person.
    """

    source: ResolvedSource
    relation: str
    columns: tuple[str, ...]
    warnings: tuple[str, ...]


def preflight(
    conn: Connection, declaration: Declaration, *, arguments: Mapping[str, Any]
) -> Preflight:
    """Resolve the job's tables and refuse what cannot go well.

    Args:
        arguments: parameters by placeholder, for planning.

    Raises:
        ProjectError: a table, column or expression that PostgreSQL does not know.
        DeclarationError: a key or target that cannot serve.
        RefusedError: this role may not read or write what the job needs.
    """
    name = declaration.job_class.__name__
    source = catalog.relation(conn, declaration.source.table, used_by=f"{name}.source")
    if source.kind not in {"r", "p"}:
        raise DeclarationError(
            f"{name}.source: {source.qualified} is no table"
            f" (it is a {_KINDS.get(source.kind, '?')})",
            remedy="Name the table whose rows are to be taken.",
        )
    target = (
        catalog.relation(conn, declaration.target.table, used_by=f"{name}.target")
        if isinstance(declaration.target, Insert)
        else source
    )
    key = _key(declaration, source)
    resolved = ResolvedSource(
        table=source.qualified,
        name=source.name,
        key=key,
        key_types=tuple(source.columns[column].type for column in key),
    )
    for column in declaration.source.columns or ():
        source.column(column, used_by=f"{name}.source")
    columns = _written_columns(declaration, source, target)
    _check_target(declaration, source, target, key, columns)
    keyset = Keyset(
        table=source.qualified,
        name=source.name,
        columns=key,
        types=resolved.key_types,
        matches=matches(declaration),
    )
    writer = Writer(declaration, keyset, source=source, target=target, arguments=arguments)
    _plan(conn, declaration, keyset, writer, arguments)
    return Preflight(
        source=resolved,
        relation=target.qualified,
        columns=() if isinstance(declaration.target, Insert) else (columns or ("*",)),
        warnings=tuple(_warnings(declaration, key)),
    )


_KINDS = {
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
    "S": "sequence",
    "i": "index",
    "c": "composite type",
    "t": "TOAST table",
}


def _key(declaration: Declaration, source: Relation) -> Key:
    """The key's columns: NOT NULL, unique together, and walkable in order (I6)."""
    name = declaration.job_class.__name__
    named = declaration.source.key
    if named is None:
        if source.primary_key is None:
            candidates = [
                key
                for key in source.unique_keys
                if all(source.columns[column].not_null for column in key)
            ]
            hint = f" For example key={list(candidates[0])!r}." if candidates else ""
            raise DeclarationError(
                f"{name}.source: {source.qualified} has no primary key",
                remedy=f"Name a unique key of NOT NULL columns: Table(…, key=…).{hint}",
            )
        named = source.primary_key
    for column in named:
        if not source.column(column, used_by=f"{name}.source").not_null:
            raise DeclarationError(
                f"{name}.source: the key's column {column!r} of {source.qualified} may be NULL;"
                " rows with NULL there could never be reached",
                remedy="Declare it NOT NULL, or name another key.",
            )
        if source.columns[column].is_nested:
            raise DeclarationError(
                f"{name}.source: the key's column {column!r} of {source.qualified} is of type"
                f" {source.columns[column].type}; arrays and composites cannot be a key",
                remedy="Name another unique key.",
            )
    if not any(set(unique) <= set(named) for unique in source.unique_keys):
        raise DeclarationError(
            f"{name}.source: no unique index of {source.qualified} says that"
            f" ({', '.join(named)}) is unique",
            remedy="Name the columns of a unique index without WHERE or expressions.",
        )
    if not any(walkable[: len(named)] == tuple(named) for walkable in source.walkable_keys):
        raise DeclarationError(
            f"{name}.source: no btree index of {source.qualified} gives the order"
            f" ({', '.join(named)}), so that each page would sort the table",
            remedy="Name the columns in the order of a btree index, or create one.",
        )
    return tuple(named)


def _written_columns(
    declaration: Declaration, source: Relation, target: Relation
) -> tuple[str, ...]:
    match declaration.target:
        case Update():
            return update_columns(declaration)
        case Insert(columns=columns) as insert:
            if declaration.sql is not None:
                return tuple(declaration.sql.expressions)
            if declaration.kind == "none":
                return copied_columns(declaration, source, target)
            return (*(columns or ()), *(insert.conflict or ()))
        case _:
            return ()


def _check_target(
    declaration: Declaration,
    source: Relation,
    target: Relation,
    key: Key,
    columns: tuple[str, ...],
) -> None:
    name = declaration.job_class.__name__
    for column in columns:
        if target.column(column, used_by=f"{name}.target").is_generated:
            raise DeclarationError(
                f"{name}.target: column {column!r} of {target.qualified} is generated by"
                " PostgreSQL and cannot be written",
                remedy="Leave it out; it follows from the columns that it is made of.",
            )
    if isinstance(declaration.target, Update) and set(columns) & set(key):
        raise RefusedError(
            f"{name}.target: it writes the key's column"
            f" {', '.join(sorted(set(columns) & set(key)))}; a row whose key changes can be met"
            " twice or never",
            remedy="Walk by another unique key: Table(…, key=…).",
        )
    if not isinstance(declaration.target, Insert):
        return
    if declaration.kind == "none":
        for column in columns:
            source.column(column, used_by=f"{name}.target copies it from the source, but there")
        if not columns:
            raise DeclarationError(
                f"{name}.target: {source.qualified} and {target.qualified} have no column in"
                " common",
                remedy='Say how they correspond: transform = Sql(new="old").',
            )
    if target.oid == source.oid and declaration.source.todo is None:
        raise RefusedError(
            f"{name}.target: it inserts into its own source {source.qualified} without a todo, so"
            " that new rows would be taken again without end",
            remedy="Give the source a todo that excludes the new rows.",
        )
    if declaration.target.on_conflict == "update" and not (
        declaration.target.conflict or target.primary_key
    ):
        raise DeclarationError(
            f"{name}.target: on_conflict='update' needs to know which columns conflict, and"
            f" {target.qualified} has no primary key",
            remedy='Name them: Insert(…, on_conflict="update", conflict=["email"]).',
        )


def _plan(
    conn: Connection,
    declaration: Declaration,
    keyset: Keyset,
    writer: Writer,
    arguments: Mapping[str, Any],
) -> None:
    """Let PostgreSQL plan the page and the write: unknown columns, types and rights show here."""
    name = declaration.job_class.__name__
    width = len(keyset.columns)
    empty = {f"k_{i}": "{}" for i in range(width)} | key_arrays([], width)
    statements: list[tuple[str, sql.Composable, Mapping[str, Any]]] = [
        (
            f"{name}.source",
            sql.SQL("SELECT {} FROM {} WHERE ({}) LIMIT 0 {}").format(
                keyset.key, keyset.from_table, keyset.condition, sql.SQL(writer.lock)
            ),
            bound("after", None),
        )
    ]
    if writer.by_key is not None:
        statements.append((f"{name}.transform", writer.by_key, empty))
    with transaction(conn, READ_LIMITS, in_batch=True):
        for what, statement, extra in statements:
            try:
                conn.execute(sql.SQL("EXPLAIN ") + statement, {**arguments, **extra})
            except psycopg.errors.InsufficientPrivilege as error:
                raise RefusedError(
                    f"{what}: {error.diag.message_primary}",
                    remedy=f"Grant role {conn.info.user} what it needs"
                    f" ({writer.lock} needs UPDATE on the source).",
                ) from error
            except (psycopg.ProgrammingError, psycopg.DataError) as error:
                hint = error.diag.message_hint or ""
                raise ProjectError(
                    f"{what}: PostgreSQL cannot run it: {error.diag.message_primary}",
                    remedy=hint or "Correct the expression.",
                ) from error


def _warnings(declaration: Declaration, key: Key) -> list[str]:
    name = declaration.job_class.__name__
    if isinstance(declaration.target, Delete) or declaration.source.todo is not None:
        return []
    return [
        (
            f"{name} has no todo: its key ({', '.join(key)}) must not change while it runs, and"
            " rows that commit late behind the cursor cannot be found again"
        )
    ]
