"""Which rows a job's source gives: all of a table's that match, or those of a query over it."""

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
from backfill.pg.catalog import Column, Relation
from backfill.pg.connect import READ_LIMITS, Connection, transaction
from backfill.pg.failure import classify
from backfill.pg.keyset import Keyset
from backfill.pg.query import QuerySql


def query_of(declaration: Declaration) -> QuerySql | None:
    """The job's query with psycopg's placeholders; None: its source is a table."""
    source = declaration.source
    if not isinstance(source, Query):
        return None
    return QuerySql(
        text=sql_fragment(source.sql, declaration.params),
        todo="TRUE" if source.todo is None else sql_fragment(source.todo, declaration.params),
    )


def keyset_of(declaration: Declaration, table: Relation, key: Key, types: Sequence[str]) -> Keyset:
    """How the table is walked, and which of its rows are ours."""
    keyset = Keyset(
        table=table.qualified,
        name=table.name,
        columns=key,
        types=tuple(types),
        matches=_matches(declaration),
    )
    query = query_of(declaration)
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


def read_relation(
    conn: Connection, declaration: Declaration, table: Relation, arguments: Mapping[str, Any]
) -> Relation:
    """The source as it is read: the table itself, or the table with the query's columns instead.

    Raises:
        ProjectError: PostgreSQL cannot run the query, or it lacks a column of the key.
        DeclarationError: two columns of it have one name.
        RefusedError: this role may not read what the query reads.
    """
    query = query_of(declaration)
    if query is None:
        return table
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
    return replace(table, columns=columns)


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
    except psycopg.errors.InsufficientPrivilege as error:
        raise RefusedError(
            f"{name}.source: {error.diag.message_primary}",
            remedy=f"Grant role {conn.info.user} SELECT on what the query reads.",
        ) from error
    except (psycopg.ProgrammingError, psycopg.DataError) as error:
        fault = classify(error, writing=False, seconds=0.0, timeout=1.0)
        told = to_its_owner(fault, secrets)
        raise ProjectError(
            f"{name}.source: PostgreSQL cannot run the query: {told}",
            remedy=error.diag.message_hint or "Correct it.",
        ) from error
    return [
        Column(
            name=column.name,
            type="",
            not_null=False,
            base_oid=column.type_code,
            category="",
            is_nested=False,
            is_json=False,
            is_generated=False,
        )
        for column in described
    ]
