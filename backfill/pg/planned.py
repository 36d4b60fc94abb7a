"""Which tables a statement reads, as its plan has them.

Views do not appear there, only what they are made of; of a partitioned table its partitions; of
what a foreign server joins by itself nothing. Nothing is executed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from psycopg import sql

from backfill.pg.connect import Connection

Plan = Mapping[str, Any]


def plan_of(conn: Connection, statement: sql.Composable, arguments: Mapping[str, Any]) -> Plan:
    """The plan's first node, in EXPLAIN's JSON. A transaction must be open.

    Raises what psycopg raises where PostgreSQL will not run the statement.
    """
    row = conn.execute(
        sql.SQL("EXPLAIN (VERBOSE, FORMAT json) {}").format(statement), arguments
    ).fetchone()
    if row is None:
        raise AssertionError("EXPLAIN returned nothing")
    plan: Plan = row[0][0]["Plan"]
    return plan


def relations(plan: Plan) -> Iterator[tuple[str, str]]:
    """Schema and name of each table that is read; one that is read twice comes twice."""
    if "Relation Name" in plan and "Schema" in plan:
        yield plan["Schema"], plan["Relation Name"]
    for child in plan.get("Plans", ()):
        yield from relations(child)


def relation_oids(conn: Connection, plan: Plan) -> set[int]:
    """The same tables by their oids; the catalog's only."""
    found = list(relations(plan))
    rows = conn.execute(
        "SELECT c.oid::bigint FROM unnest(%s::text[], %s::text[]) AS given (schema, name)"
        " JOIN pg_namespace n ON n.nspname = given.schema"
        " JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = given.name",
        [[schema for schema, _ in found], [name for _, name in found]],
    ).fetchall()
    return {oid for (oid,) in rows}
