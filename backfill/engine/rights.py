"""What a job needs on the tables that it reads and writes, for the role of its workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from psycopg import sql

from backfill.engine.checks.subject import Subject
from backfill.job import Call, Delete, Insert, Update
from backfill.pg.catalog import QUERY
from backfill.pg.connect import READ_LIMITS, Connection, transaction
from backfill.pg.grants import Right
from backfill.pg.inspect import TableFacts, table_facts
from backfill.pg.keyset import key_arrays
from backfill.pg.planned import plan_of, relations


def source_rights(source_conn: Connection, subject: Subject) -> Iterator[Right]:
    """Where rows are copied into another database: the rights in the one that they are read in."""
    yield from _schemas(source_conn, subject.source.oid)
    yield from _reading(subject)
    yield from _read_beside(source_conn, subject)


def target_rights(conn: Connection, subject: Subject) -> Iterator[Right]:
    """Where rows are copied into another database: the rights in the one that is written."""
    insert, table = subject.declaration.target, subject.target
    if not isinstance(insert, Insert):
        raise TypeError("only Insert writes another database")
    facts = table_facts(conn, table.oid, name=table.qualified, event="INSERT")
    yield from _schemas(conn, table.oid)
    yield from _inserting(subject, insert, facts)


def job_rights(conn: Connection, subject: Subject) -> Iterator[Right]:
    """The rights on the source, the target, their schemas and sequences, and what else is read.

    Both are in one database.
    """
    source, target = subject.source.qualified, subject.target.qualified
    declaration = subject.declaration
    yield from _schemas(conn, subject.source.oid, subject.target.oid)
    yield from _reading(subject)
    match declaration.target:
        case Update():
            yield Right(privilege="UPDATE", on=target, columns=subject.columns)
        case Delete():
            yield from _locking(subject)
            yield Right(privilege="DELETE", on=target)
        case Insert() as insert:
            if subject.writer.locks_rows:
                yield from _locking(subject)
            facts = table_facts(conn, subject.target.oid, name=target, event="INSERT")
            yield from _inserting(subject, insert, facts)
            if declaration.deletes_source:
                yield Right(privilege="DELETE", on=source)
        case Call():
            pass  # it locks nothing and writes nothing
    yield from _read_beside(conn, subject)


def _reading(subject: Subject) -> Iterator[Right]:
    if subject.source.kind != QUERY:  # what a query reads stands in its plan
        yield Right(privilege="SELECT", on=subject.source.qualified)


def _locking(subject: Subject) -> Iterator[Right]:
    """Locking a row asks for UPDATE on one column; that of the key gives away the least."""
    yield Right(privilege="UPDATE", on=subject.source.qualified, columns=subject.key[:1])


def _inserting(subject: Subject, insert: Insert, facts: TableFacts) -> Iterator[Right]:
    target = subject.target
    columns = subject.known_columns or ()
    yield Right(privilege="INSERT", on=target.qualified, columns=columns)
    if insert.on_conflict == "update":
        conflict = insert.conflict or target.primary_key or ()
        changed = tuple(c for c in columns if c not in conflict)
        # `excluded.note` asks for the right to read note; without known columns, for all of them
        read = (*conflict, *changed) if columns else ()
        yield Right(privilege="SELECT", on=target.qualified, columns=read)
        if changed or not columns:
            yield Right(privilege="UPDATE", on=target.qualified, columns=changed)
    elif insert.on_conflict == "skip" and insert.conflict:
        yield Right(privilege="SELECT", on=target.qualified, columns=insert.conflict)
    for column in facts.columns:
        # an identity column's sequence asks for no right
        if column.sequence and not column.is_identity and column.name not in columns:
            yield Right(privilege="USAGE", on=f"SEQUENCE {column.sequence}")


def _schemas(conn: Connection, *oids: int) -> Iterator[Right]:
    # the catalog's only
    found = conn.execute(
        "SELECT DISTINCT quote_ident(n.nspname) FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY(%s) ORDER BY 1",
        [list(oids)],
    ).fetchall()
    for (schema,) in found:
        yield Right(privilege="USAGE", on=f"SCHEMA {schema}")


# Tables by schema and name, a partition as the whole that it is a part of, without the job's own
# tables and what belongs to them. The catalog's only.
_OTHERS = """
WITH RECURSIVE own AS (
    SELECT unnest(%(own)s::oid[]) AS oid
     UNION SELECT i.inhrelid FROM pg_inherits i JOIN own ON own.oid = i.inhparent)
SELECT DISTINCT w.oid::bigint, format('%%I.%%I', wn.nspname, w.relname) AS name
  FROM unnest(%(schemas)s::text[], %(names)s::text[]) AS given (schema, name)
  JOIN pg_namespace n ON n.nspname = given.schema
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = given.name
  JOIN pg_class w ON w.oid = coalesce(pg_partition_root(c.oid), c.oid)
  JOIN pg_namespace wn ON wn.oid = w.relnamespace
 WHERE w.oid NOT IN (SELECT oid FROM own)
 ORDER BY name
"""


def _read_beside(conn: Connection, subject: Subject) -> Iterator[Right]:
    """Other tables that the job's expressions read, by the plans of its statements.

    A view does not appear there, only what it is made of.
    """
    empty = key_arrays([], len(subject.keyset.columns))
    statements: list[tuple[sql.Composable, Mapping[str, Any]]] = [
        (
            sql.SQL("SELECT FROM {} WHERE {}").format(
                subject.keyset.from_table, subject.keyset.condition
            ),
            {},
        )
    ]
    if subject.writer.by_key is not None:
        statements.append((subject.writer.by_key, empty))
    if not subject.writer.locks_rows:
        ends = dict.fromkeys(f"upto_{i}" for i in range(len(subject.keyset.columns)))
        page, arguments = subject.unlocked_page(after=False)
        statements.append((page, {**arguments, **ends, "scan_rows": 1, "page_rows": 1}))
    found: set[tuple[str, str]] = set()
    with transaction(conn, READ_LIMITS):
        for statement, extra in statements:
            found |= set(relations(plan_of(conn, statement, {**subject.arguments, **extra})))
        others = conn.execute(
            _OTHERS,
            {
                "own": [subject.source.oid, subject.target.oid],
                "schemas": [schema for schema, _ in found],
                "names": [name for _, name in found],
            },
        ).fetchall()
    yield from _schemas(conn, *(oid for oid, _ in others))
    for _, name in others:
        yield Right(privilege="SELECT", on=name)
