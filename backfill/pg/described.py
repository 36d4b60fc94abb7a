"""The types of a query's columns: a query has no catalog entry, only the description of its result.

PostgreSQL describes a column of a domain by the type that the domain is made of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, LiteralString

from psycopg.rows import dict_row

from backfill.pg.catalog import Column
from backfill.pg.connect import Connection

# The catalog's only. `P` are pseudo-types such as record, which have no text to be read again.
_TYPES: Final[LiteralString] = """
SELECT t.oid::bigint AS base_oid, format_type(t.oid, -1) AS type, t.typcategory::text AS category,
       t.typcategory IN ('A', 'P') OR t.typtype = 'c' AS is_nested,
       t.oid IN ('json'::regtype, 'jsonb'::regtype) AS is_json
  FROM pg_type t WHERE t.oid = ANY(%s::oid[])
"""

# Types whose own comparison, by which ORDER BY sorts, is not what `>` finds on the search_path.
_HIDDEN: Final[LiteralString] = """
SELECT o.opcintype::bigint FROM pg_opclass o
  JOIN pg_am am ON am.oid = o.opcmethod AND am.amname = 'btree'
  JOIN pg_amop p ON p.amopfamily = o.opcfamily AND p.amoplefttype = o.opcintype
                AND p.amoprighttype = o.opcintype AND p.amopstrategy = 5
 WHERE o.opcdefault AND o.opcintype = ANY(%s::oid[]) AND NOT pg_operator_is_visible(p.amopopr)
"""


def described_columns(conn: Connection, described: Sequence[tuple[str, int]]) -> list[Column]:
    """The columns of a result, from their names and the oids of their types; any may be NULL."""
    oids = [oid for _, oid in described]
    with conn.cursor(row_factory=dict_row) as cursor:
        found: Mapping[int, Mapping[str, object]] = {
            row["base_oid"]: row for row in cursor.execute(_TYPES, [oids])
        }
    return [
        Column(name=name, not_null=False, is_generated=False, **found[oid])  # type: ignore[arg-type]
        for name, oid in described
    ]


def hidden_orders(conn: Connection, columns: Sequence[Column]) -> frozenset[str]:
    """Names of the columns whose comparison this session's search_path does not reach."""
    found = conn.execute(_HIDDEN, [[column.base_oid for column in columns]]).fetchall()
    hidden = {oid for (oid,) in found}
    return frozenset(column.name for column in columns if column.base_oid in hidden)
