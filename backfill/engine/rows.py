"""Which rows a job's source gives: all of a table's that match, or those of a query.

A query over a table, which it names, is asked of the table's rows one by one; one that names none
stands by itself, and so do views and foreign tables: nothing of them can be locked
(`Relation.is_lockable`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import psycopg

from backfill.engine.telling import to_its_owner
from backfill.errors import DeclarationError, ProjectError, RefusedError
from backfill.job import Query
from backfill.job.declaration import Declaration, sql_fragment
from backfill.job.secret import Secrets
from backfill.model import Key
from backfill.pg import catalog
from backfill.pg.catalog import Column, Relation
from backfill.pg.connect import READ_LIMITS, Connection, transaction
from backfill.pg.described import described_columns, hidden_orders
from backfill.pg.failure import classify
from backfill.pg.keyset import Keyset
from backfill.pg.query import QuerySql

#: How people are told of a query that names no table, and what its name is in the ledger.
THE_QUERY = "the query"


def query_of(declaration: Declaration) -> QuerySql | None:
    """The query over the source's table, with psycopg's placeholders.

    None: the table itself gives the rows, or the query stands in its place.
    """
    return None if declaration.source.table is None else _sql_of(declaration)


def _sql_of(declaration: Declaration) -> QuerySql | None:
    source = declaration.source
    if not isinstance(source, Query):
        return None
    return QuerySql(
        text=sql_fragment(source.sql, declaration.params),
        todo="TRUE" if source.todo is None else sql_fragment(source.todo, declaration.params),
    )


def keyset_of(declaration: Declaration, source: Relation, key: Key, types: Sequence[str]) -> Keyset:
    """How the source is walked, and which of its rows are ours."""
    query = _sql_of(declaration)
    if query is not None and declaration.source.table is None:
        return query.as_source(key, types)
    keyset = Keyset(
        table=source.qualified,
        name=source.name,
        columns=key,
        types=tuple(types),
        matches=_matches(declaration),
        leads=not source.is_lockable,
    )
    if query is None:
        return keyset
    return replace(keyset, matches=query.exists(keyset).as_string(None))


def _matches(declaration: Declaration) -> str:
    """`(where) AND (todo)` with psycopg's placeholders."""
    source = declaration.source
    where = None if isinstance(source, Query) else source.where
    parts = [
        f"({sql_fragment(text, declaration.params)})"
        for text in (where, source.todo)
        if text is not None
    ]
    return " AND ".join(parts) or "TRUE"


def source_relation(
    conn: Connection, declaration: Declaration, table: str | None, arguments: Mapping[str, Any]
) -> Relation:
    """The source's table; where the job names none, the query in its place.

    Args:
        table: its name, as the job or the ledger has it.

    Raises:
        ProjectError: there is no such table, or as `read_relation`.
        DeclarationError, RefusedError: as `read_relation`.
    """
    if declaration.source.table is not None and table is not None:
        name = declaration.job_class.__name__
        found = catalog.relation(conn, table, used_by=f"{name}.source")
        if found.is_lockable:
            return found
        return replace(found, hidden_orders=hidden_orders(conn, list(found.columns.values())))
    columns = _columns(conn, declaration, arguments)
    return Relation(
        oid=0,
        qualified=THE_QUERY,
        name="query",
        kind=catalog.QUERY,
        columns=columns,
        unique_keys=(),
        has_primary_key=False,
        locking_columns=frozenset(),
        walkable_keys=frozenset(),
        hidden_orders=hidden_orders(conn, list(columns.values())),
        has_children=False,
        estimated_rows=-1,
    )


def read_relation(
    conn: Connection, declaration: Declaration, source: Relation, arguments: Mapping[str, Any]
) -> Relation:
    """The source as it is read: the table itself, or the table with the query's columns instead.

    Raises:
        ProjectError: PostgreSQL cannot run the query, or it lacks a column of the key.
        DeclarationError: two columns of it have one name.
        RefusedError: this role may not read what the query reads.
    """
    if query_of(declaration) is None:
        return source
    return replace(source, columns=_columns(conn, declaration, arguments))


def _columns(
    conn: Connection, declaration: Declaration, arguments: Mapping[str, Any]
) -> dict[str, Column]:
    """The query's columns by name."""
    query = _sql_of(declaration)
    if query is None:
        raise TypeError("the source is no query")
    name = declaration.job_class.__name__
    secrets = declaration.secrets(arguments)
    found = _described(conn, query, arguments, name=name, secrets=secrets)
    columns = {column.name: column for column in found}
    if len(columns) < len(found):
        names = [column.name for column in found]
        twice = next(column for column in names if names.count(column) > 1)
        raise DeclarationError(
            f"{name}.source: the query has two columns named {twice!r}",
            remedy=f"Name them apart: SELECT …, c.{twice} AS other_{twice}.",
        )
    for column in declaration.source.key or ():
        if column not in columns:
            raise ProjectError(
                f"{name}.source: the query has no column {column!r}, which its key names",
                remedy=f"Its columns are {', '.join(columns)}.",
            )
    return columns


def _described(
    conn: Connection,
    query: QuerySql,
    arguments: Mapping[str, Any],
    *,
    name: str,
    secrets: Secrets,
) -> list[Column]:
    try:
        with transaction(conn, READ_LIMITS):
            described = conn.execute(query.described(), arguments).description or []
            return described_columns(conn, [(one.name, one.type_code) for one in described])
    except psycopg.errors.InsufficientPrivilege as error:
        raise RefusedError(
            f"{name}.source: {error.diag.message_primary}",
            remedy=f"Grant role {conn.info.user} SELECT on what the query reads.",
        ) from error
    except (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError) as error:
        fault = classify(error, writing=False)
        told = to_its_owner(fault, secrets)
        raise ProjectError(
            f"{name}.source: PostgreSQL cannot run the query: {told}",
            remedy=error.diag.message_hint or "Correct it.",
        ) from error
