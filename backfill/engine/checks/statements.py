"""Findings from planning the real statements: unknown columns, types and rights show there."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import psycopg
from psycopg import sql

from backfill.engine.checks.finding import Finding, error
from backfill.engine.removal import Removal
from backfill.engine.telling import to_its_owner
from backfill.engine.write import Writer
from backfill.errors import LockedOutError, ProjectError
from backfill.job.secret import Secrets
from backfill.pg.blocking import who_locks
from backfill.pg.connect import READ_LIMITS, Connection, transaction
from backfill.pg.failure import classify
from backfill.pg.keyset import Keyset, key_arrays

#: A statement and its parameters.
Statement = tuple[sql.Composable, Mapping[str, Any]]

_REFUSALS = (
    psycopg.ProgrammingError,
    psycopg.DataError,
    psycopg.NotSupportedError,
    # such as a published table without a replica identity
    psycopg.errors.ObjectNotInPrerequisiteState,
    psycopg.errors.LockNotAvailable,
)


def check_statements(
    conn: Connection,
    keyset: Keyset,
    writer: Writer,
    *,
    name: str,
    arguments: Mapping[str, Any],
    secrets: Secrets,
    columns: tuple[str, ...],
    removal: Removal | None,
    tables: Collection[int],
    source_conn: Connection,
    unlocked_page: Statement | None,
) -> Iterator[Finding]:
    """Let PostgreSQL plan the page and the write.

    Args:
        name: the job's class.
        secrets: among the arguments.
        columns: what Python computes, as far as it is known.
        removal: what deletes the rows that were moved.
        tables: oids of the source and the target.
        source_conn: to the source's database.
        unlocked_page: what reads the rows of a job that never locks them, without its first key;
            the job's expressions are in it. None: it locks them, or may.
    """
    width = len(keyset.columns)
    empty = no_keys(keyset)
    lock = writer.lock if writer.locks_rows else ""
    page = sql.SQL("SELECT {key} FROM {} WHERE ({}) ORDER BY {key} LIMIT 0 {}").format(
        keyset.from_table, keyset.condition, sql.SQL(lock), key=keyset.key
    )
    statements: list[tuple[str, Connection, sql.Composable, Mapping[str, Any]]] = [
        (f"{name}.source", source_conn, page, {})
    ]
    if unlocked_page is not None:
        statement, extra = unlocked_page
        ends = {f"upto_{i}": None for i in range(width)} | {"scan_rows": 1, "page_rows": 1}
        statements.append((f"{name}.transform", source_conn, statement, {**extra, **ends}))
    if writer.by_key is not None:
        statements.append((f"{name}.transform", conn, writer.by_key, empty))
    if columns and writer.is_python:
        values = {f"v_{i}": "{}" for i in range(len(columns))}
        statements.append((f"{name}.target", conn, writer.by_values(columns), {**empty, **values}))
    if removal is not None:
        statements.append((f"{name}.target", conn, removal.statement, empty))
    for what, where, statement, extra in statements:
        refusal = refusal_of(where, statement, {**arguments, **extra})
        if refusal is None:
            continue
        told = told_of(refusal, secrets)
        if isinstance(refusal, psycopg.errors.LockNotAvailable):
            by = who_locks(where, tables)
            yield error(
                "table-locked",
                f"{what}: a lock keeps every batch out{f': {by}' if by else ''}",
                why="Batches cannot begin as long as it is held or waited for.",
                remedy="Wait until it is over, or end that session.",
                refusal=LockedOutError,
            )
            return
        if isinstance(refusal, psycopg.errors.InsufficientPrivilege):
            yield error(
                "not-permitted",
                f"{what}: {told}",
                why="The run would pause at its first batch.",
                remedy=_of_policies(refusal)
                or f"Grant role {where.info.user} what it needs"
                f"{f' ({writer.lock} needs UPDATE on the source)' if writer.locks_rows else ''}.",
            )
        else:
            yield error(
                "not-runnable",
                f"{what}: PostgreSQL cannot run it: {told}",
                why="The run would pause at its first batch.",
                remedy=refusal.diag.message_hint or "Correct the expression.",
                refusal=ProjectError,
            )


def no_keys(keyset: Keyset) -> dict[str, Any]:
    """What a statement is given in place of a page's keys, to be planned."""
    width = len(keyset.columns)
    return {f"k_{i}": "{}" for i in range(width)} | key_arrays([], width)


def told_of(refusal: psycopg.Error, secrets: Secrets) -> str:
    """What PostgreSQL says, for the job's owner."""
    timeout = READ_LIMITS.statement_timeout_seconds
    fault = classify(refusal, writing=False, seconds=0.0, timeout=timeout)
    return to_its_owner(fault, secrets)


def _of_policies(refusal: psycopg.Error) -> str | None:
    """The remedy where it is row security that refuses (rls.c), with the same SQLSTATE as rights.

    With row_security = off PostgreSQL applies no policy, nor its WITH CHECK: all rows or an error.
    """
    if refusal.diag.source_function != "check_enable_rls":
        return None
    return (
        "Let workers connect as a role with BYPASSRLS, or as the table's owner where row security"
        " is not forced."
    )


def refusal_of(
    conn: Connection, statement: sql.Composable, arguments: Mapping[str, Any]
) -> psycopg.Error | None:
    """Why PostgreSQL will not run a statement; None when it would. Nothing is executed."""
    try:
        with transaction(conn, READ_LIMITS, in_batch=True):
            conn.execute(sql.SQL("EXPLAIN ") + statement, arguments)
    except _REFUSALS as error:
        return error
    return None
