"""What PostgreSQL's catalog says of a table: columns, key, what indexes make of a write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import takewhile

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from backfill.errors import ProjectError
from backfill.pg.connect import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column.

    Attributes:
        type: as it is written in a cast. Without a length: a cast to varchar(3) would cut in
            silence, an assignment to such a column refuses.
        base_oid: of its type, or of the type that its domain is made of in the end.
        category: of its type, as in pg_type.typcategory: N a number, S text, …
        is_nested: a value of it is itself an array or a composite (or a domain over one), which
            unnest would take to pieces.
        is_json: json or jsonb, so that a mapping or a list is written as JSON.
        is_generated: GENERATED ALWAYS AS (…) STORED or virtual; it cannot be written.
    """

    name: str
    type: str
    not_null: bool
    base_oid: int
    category: str
    is_nested: bool
    is_json: bool
    is_generated: bool


#: The kind of a query that stands in a table's place.
QUERY = "query"


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """A table as it was found.

    Attributes:
        qualified: schema and name, quoted; the name by itself is visible in the user's fragments.
        kind: pg_class.relkind (`r` table, `p` partitioned, `v` view, …), or `QUERY`.
        unique_keys: columns of each valid unique index without predicate or expression, in its
            order; only those of the primary key come first.
        has_primary_key: whether the first of `unique_keys` is the primary key.
        locking_columns: columns whose change takes a row lock that blocks inserts of children.
        walkable_keys: the longest column lists that btree indexes give in order, forward or
            backward; so they give each beginning of them.
        hidden_orders: indexed columns of types whose comparison this session's search_path does
            not reach, so that `>` means another one.
        has_children: other tables inherit from it, and are no partitions.
    """

    oid: int
    qualified: str
    name: str
    kind: str
    columns: Mapping[str, Column]
    unique_keys: tuple[tuple[str, ...], ...]
    has_primary_key: bool
    locking_columns: frozenset[str]
    walkable_keys: frozenset[tuple[str, ...]]
    hidden_orders: frozenset[str]
    has_children: bool
    estimated_rows: float

    @property
    def is_lockable(self) -> bool:
        """Whether its rows can be locked one by one; its key is then checked by its indexes."""
        return self.kind in {"r", "p"}

    @property
    def primary_key(self) -> tuple[str, ...] | None:
        """The primary key's columns in their order, or None."""
        return self.unique_keys[0] if self.has_primary_key else None

    def column(self, name: str, *, used_by: str) -> Column:
        """The column of that exact name.

        Raises:
            ProjectError: there is none; names those that come close.
        """
        found = self.columns.get(name)
        if found is None:
            close = get_close_matches(name, self.columns, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ProjectError(
                f"{used_by}: table {self.qualified} has no column {name!r}.",
                remedy=f"Its columns are {', '.join(self.columns)}.{hint}",
            )
        return found


def as_template(quoted: str) -> sql.SQL:
    """What PostgreSQL has quoted (a table, a type), for a statement that is given parameters.

    In such a statement psycopg takes every `%` that is not doubled for a placeholder's.
    """
    return sql.SQL(quoted.replace("%", "%%"))


def identifier(name: str) -> sql.Identifier:
    """`"a"`, for a statement that is given parameters."""
    return sql.Identifier(name.replace("%", "%%"))


def identifiers(names: Sequence[str]) -> sql.Composed:
    """`"a", "b"`, for a statement that is given parameters."""
    return sql.SQL(", ").join(map(identifier, names))


# Needs no lock: the catalog's own. to_regclass parses a name as PostgreSQL does, quotes and all.
_RELATION = """
SELECT c.oid::bigint AS oid, format('%%I.%%I', n.nspname, c.relname) AS qualified,
       c.relname AS name, c.relkind::text AS kind, c.reltuples::float8 AS estimated_rows,
       c.relkind <> 'p' AND EXISTS (SELECT FROM pg_inherits WHERE inhparent = c.oid) AS has_children
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = to_regclass(%(table)s)
"""

_COLUMNS = """
SELECT a.attname AS name, format_type(a.atttypid, -1) AS type, a.attnotnull AS not_null,
       base.oid::bigint AS base_oid, base.typcategory::text AS category,
       base.typcategory = 'A' OR base.typtype = 'c' AS is_nested,
       base.oid IN ('json'::regtype, 'jsonb'::regtype) AS is_json,
       a.attgenerated <> '' AS is_generated
  FROM pg_attribute a
       CROSS JOIN LATERAL (
         WITH RECURSIVE type AS (
           SELECT t.* FROM pg_type t WHERE t.oid = a.atttypid UNION ALL
           SELECT t.* FROM type JOIN pg_type t ON t.oid = type.typbasetype)
         SELECT * FROM type WHERE typbasetype = 0) AS base
 WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum
"""

# `in_order`: of each column 0 (ascending) or 3 (descending) when reading the index forward or
# backward gives the order of a plain ORDER BY (NULLS LAST); another number when neither does.
_INDEXES = """
SELECT i.indisprimary AS is_primary, i.indisunique AS is_unique,
       i.indpred IS NULL AND i.indexprs IS NULL AS is_plain,
       am.amname = 'btree' AS is_btree,
       ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, n)
               JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
              WHERE k.n <= i.indnkeyatts ORDER BY k.n) AS columns,
       ARRAY(SELECT CASE WHEN k.coll = a.attcollation
                          AND EXISTS (SELECT FROM pg_opclass d
                                       WHERE d.opcfamily = o.opcfamily AND d.opcdefault)
                         THEN k.way::int ELSE -1 END
               FROM unnest(i.indkey::int2[], i.indoption::int2[], i.indclass::oid[],
                           i.indcollation::oid[])
                    WITH ORDINALITY AS k (attnum, way, opclass, coll, n)
               JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
               JOIN pg_opclass o ON o.oid = k.opclass
              WHERE k.n <= i.indnkeyatts ORDER BY k.n) AS in_order,
       ARRAY(SELECT a.attname::text
               FROM unnest(i.indkey::int2[], i.indclass::oid[]) AS k (attnum, opclass)
               JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
               JOIN pg_opclass o ON o.oid = k.opclass
               JOIN pg_amop p ON p.amopfamily = o.opcfamily AND p.amoplefttype = o.opcintype
                             AND p.amoprighttype = o.opcintype AND p.amopstrategy = 5
              WHERE am.amname = 'btree' AND NOT pg_operator_is_visible(p.amopopr)) AS hidden
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am am ON am.oid = c.relam
 WHERE i.indrelid = %(oid)s AND i.indisvalid
 ORDER BY i.indisprimary DESC, i.indexrelid
"""


def relation(conn: Connection, table: str, *, used_by: str) -> Relation:
    """Look a table up.

    Args:
        table: a name as PostgreSQL parses it: `users`, `"Odd Name"`, `billing.invoice`.
        used_by: whose table it is, for the error: `FillDeparture.source`.

    Raises:
        ProjectError: no such table, or the name cannot be parsed.
    """
    with conn.cursor(row_factory=dict_row) as cursor:
        try:
            found = cursor.execute(_RELATION, {"table": table}).fetchone()
        except (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError) as error:
            raise ProjectError(
                f"{used_by}: {table!r} is not a table name that PostgreSQL can parse:"
                f" {error.diag.message_primary or error}",
                remedy='Write it as in SQL: users, billing.invoice or "Odd Name".',
            ) from error
        if found is None:
            raise ProjectError(
                f"{used_by}: there is no table {table!r} in database {conn.info.dbname}.",
                remedy="Check the name, its schema and the search_path of this role; "
                "the expand step of the change has to come first.",
            )
        oid = {"oid": found["oid"]}
        columns = [Column(**row) for row in cursor.execute(_COLUMNS, oid)]
        indexes = cursor.execute(_INDEXES, oid).fetchall()
    plain = [index for index in indexes if index["is_plain"]]
    unique = [index for index in plain if index["is_unique"]]
    return Relation(
        **found,
        columns={column.name: column for column in columns},
        unique_keys=tuple(tuple(index["columns"]) for index in unique),
        has_primary_key=any(index["is_primary"] for index in unique),
        locking_columns=frozenset(name for index in unique for name in index["columns"]),
        walkable_keys=frozenset(
            walkable
            for index in plain
            if index["is_btree"] and (walkable := _walkable(index["columns"], index["in_order"]))
        ),
        hidden_orders=frozenset(name for index in indexes for name in index["hidden"]),
    )


_DEFERRABLE = """
SELECT c.relname, ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) AS k (attnum)
                          JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 WHERE i.indrelid = %s AND NOT i.indimmediate AND (i.indisunique OR i.indisexclusion)
 ORDER BY c.relname
"""


def deferrable(conn: Connection, table: Relation) -> list[tuple[str, list[str]]]:
    """The constraints that are not checked at once, each with its columns."""
    return [(name, columns) for name, columns in conn.execute(_DEFERRABLE, [table.oid])]


_CHILDREN = """
WITH RECURSIVE child AS (
  SELECT inhrelid FROM pg_inherits WHERE inhparent = %s UNION
  SELECT i.inhrelid FROM child JOIN pg_inherits i ON i.inhparent = child.inhrelid)
SELECT format('%%I.%%I', n.nspname, c.relname)
  FROM child JOIN pg_class c ON c.oid = inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 ORDER BY 1
"""


def children(conn: Connection, parent: Relation, *, used_by: str) -> list[Relation]:
    """The tables that inherit from one, directly or not."""
    return [
        relation(conn, name, used_by=used_by) for (name,) in conn.execute(_CHILDREN, [parent.oid])
    ]


def _walkable(columns: Sequence[str], in_order: Sequence[int]) -> tuple[str, ...]:
    """The longest beginning of an index's columns that all run the same way."""
    same_way = takewhile(lambda way: way == in_order[0] and way in {0, 3}, in_order)
    return tuple(column for column, _ in zip(columns, same_way, strict=False))
