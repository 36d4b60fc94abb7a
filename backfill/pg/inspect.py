"""What a table is beset with: indexes, triggers, constraints, statistics; read from the catalog.

Every statement reads the catalog or the statistics, no user's table, and takes no lock that a batch
or the application could meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, LiteralString, TypeVar

from psycopg.rows import class_row

from backfill.pg.connect import Connection

T = TypeVar("T")

# The table with its partitions, and those that inherit from it.
_FAMILY: Final[LiteralString] = """
WITH RECURSIVE family AS (
    SELECT %(oid)s::oid AS oid
     UNION SELECT i.inhrelid FROM pg_inherits i JOIN family f ON i.inhparent = f.oid)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """An index of the table.

    Attributes:
        columns: all that it reads: its own, those of its expressions, of its WHERE and INCLUDE.
        keeps_hot: a change of its columns alone leaves an update heap-only (BRIN, from 16 on).
        size_bytes: with those of the partitions.
    """

    name: str
    method: str
    is_unique: bool
    is_valid: bool
    columns: Sequence[str]
    keeps_hot: bool
    size_bytes: int


_INDEXES: Final[LiteralString] = """
SELECT c.relname AS name, am.amname AS method, i.indisunique AS is_unique, i.indisvalid AS is_valid,
       ARRAY(SELECT DISTINCT a.attname::text FROM pg_depend d
               JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
              WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid
                AND d.refobjsubid > 0
              UNION
             SELECT a.attname::text FROM unnest(i.indkey::int2[]) AS k (attnum)
               JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
              ORDER BY 1) AS columns,
       am.amname = 'brin' AND current_setting('server_version_num')::int >= 160000 AS keeps_hot,
       (SELECT coalesce(sum(pg_relation_size(t.relid)), pg_relation_size(i.indexrelid))
          FROM pg_partition_tree(i.indexrelid) AS t)::int8 AS size_bytes
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am am ON am.oid = c.relam
 WHERE i.indrelid = %(oid)s AND i.indislive
 ORDER BY c.relname
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """A trigger of the table or of one of its partitions, that is not PostgreSQL's own.

    Attributes:
        events: of INSERT, UPDATE, DELETE.
        columns: of `UPDATE OF`; empty: any column.
        enabled: pg_trigger.tgenabled: O origin, D disabled, R replica, A always.
    """

    name: str
    table: str
    function: str
    is_before: bool
    is_per_row: bool
    events: Sequence[str]
    columns: Sequence[str]
    is_deferred: bool
    enabled: str


_TRIGGERS: Final[LiteralString] = (
    _FAMILY
    + """
SELECT t.tgname AS name, t.tgrelid::regclass::text AS table, t.tgfoid::regproc::text AS function,
       (t.tgtype & 2) <> 0 AS is_before, (t.tgtype & 1) <> 0 AS is_per_row,
       array_remove(ARRAY[CASE WHEN (t.tgtype & 4) <> 0 THEN 'INSERT' END,
                          CASE WHEN (t.tgtype & 16) <> 0 THEN 'UPDATE' END,
                          CASE WHEN (t.tgtype & 8) <> 0 THEN 'DELETE' END], NULL) AS events,
       ARRAY(SELECT a.attname::text FROM unnest(t.tgattr::int2[]) AS k (attnum)
               JOIN pg_attribute a ON a.attrelid = t.tgrelid AND a.attnum = k.attnum) AS columns,
       t.tgdeferrable AND t.tginitdeferred AS is_deferred, t.tgenabled::text AS enabled
  FROM family f JOIN pg_trigger t ON t.tgrelid = f.oid
 WHERE NOT t.tgisinternal AND t.tgparentid = 0
 ORDER BY t.tgname
"""
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """A constraint that a write meets: a check, a foreign key from this table or to it.

    Attributes:
        kind: pg_constraint.contype: c check, f foreign key.
        is_incoming: a foreign key of another table to this one.
        columns: this table's side.
        other, other_columns: the other table of a foreign key, and its side.
        on_delete, on_update: pg_constraint's letters: a no action, r restrict, c cascade, n set
            null, d set default.
        other_is_indexed: the other side's columns begin an index, so that a look-up is cheap.
    """

    name: str
    kind: str
    is_incoming: bool
    columns: Sequence[str]
    other: str
    other_columns: Sequence[str]
    on_delete: str
    on_update: str
    is_deferrable: bool
    is_validated: bool
    other_is_indexed: bool
    definition: str


_CONSTRAINTS: Final[LiteralString] = """
WITH met AS (
    SELECT c.*, false AS is_incoming, c.conkey AS ours, c.confkey AS theirs,
           c.confrelid AS other_oid
      FROM pg_constraint c WHERE c.conrelid = %(oid)s AND c.contype IN ('c', 'f')
    UNION ALL
    SELECT c.*, true, c.confkey, c.conkey, c.conrelid
      FROM pg_constraint c WHERE c.confrelid = %(oid)s AND c.contype = 'f' AND c.conparentid = 0)
SELECT m.conname AS name, m.contype::text AS kind, m.is_incoming,
       ARRAY(SELECT a.attname::text FROM unnest(m.ours) AS k (attnum)
               JOIN pg_attribute a ON a.attrelid = %(oid)s AND a.attnum = k.attnum) AS columns,
       CASE WHEN m.other_oid <> 0 THEN m.other_oid::regclass::text ELSE '' END AS other,
       ARRAY(SELECT a.attname::text FROM unnest(m.theirs) AS k (attnum)
               JOIN pg_attribute a ON a.attrelid = m.other_oid AND a.attnum = k.attnum)
         AS other_columns,
       m.confdeltype::text AS on_delete, m.confupdtype::text AS on_update,
       m.condeferrable AS is_deferrable, m.convalidated AS is_validated,
       NOT m.is_incoming OR EXISTS (
         SELECT FROM pg_index i
          WHERE i.indrelid = m.other_oid AND i.indisvalid AND i.indpred IS NULL
            AND (i.indkey::int2[])[0:cardinality(m.theirs) - 1] @> m.theirs) AS other_is_indexed,
       pg_get_constraintdef(m.oid) AS definition
  FROM met m
 ORDER BY m.conname
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFacts:
    """What is known of a column beyond its type.

    Attributes:
        average_bytes: from the statistics; None: never analysed, or not to be read by this role.
        correlation: of its order with that of the rows on the heap, -1 to 1; None: not known.
        has_default: a default, an identity, or a type (domain) with one.
        sequence: it takes its values from this sequence; empty: none.
        is_identity: GENERATED AS IDENTITY.
        is_readable: this role may SELECT it.
        in_partition_key: changing it may move the row to another partition.
    """

    name: str
    not_null: bool
    average_bytes: int | None
    correlation: float | None
    has_default: bool
    sequence: str
    is_identity: bool
    is_readable: bool
    in_partition_key: bool


_COLUMNS: Final[LiteralString] = """
SELECT a.attname AS name, a.attnotnull AS not_null, s.avg_width AS average_bytes,
       s.correlation::float8 AS correlation,
       a.atthasdef OR a.attidentity <> '' OR t.typdefault IS NOT NULL AS has_default,
       coalesce(pg_get_serial_sequence(format('%%I.%%I', n.nspname, c.relname), a.attname), '')
         AS sequence,
       a.attidentity <> '' AS is_identity,
       has_column_privilege(c.oid, a.attnum, 'SELECT') AS is_readable,
       coalesce(a.attnum = ANY (p.partattrs::int2[]), false) AS in_partition_key
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_partitioned_table p ON p.partrelid = c.oid
  LEFT JOIN LATERAL (SELECT avg_width, correlation FROM pg_stats s
                      WHERE s.schemaname = n.nspname AND s.tablename = c.relname
                        AND s.attname = a.attname
                      ORDER BY s.inherited = (c.relkind = 'p') DESC LIMIT 1) AS s ON true
 WHERE c.oid = %(oid)s
 ORDER BY a.attnum
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """How a table lies on the disk, and what PostgreSQL does with it; with its partitions.

    Attributes:
        persistence: pg_class.relpersistence: p permanent, u unlogged, t temporary.
        rows: by the planner's statistics.
        analyzed: each of the tables has statistics.
        children: how many partitions or inheriting tables there are below it.
        replica_identity: pg_class.relreplident: d primary key, i an index, f the row, n nothing.
        publications: those that publish this table's changes of the kind asked for.
    """

    persistence: str
    rows: float
    pages: int
    heap_bytes: int
    dead_rows: int
    analyzed: bool
    fillfactor: int
    autovacuum_off: bool
    children: int
    has_rules: bool
    replica_identity: str
    publications: Sequence[str]


_STORAGE: Final[LiteralString] = (
    _FAMILY
    + """
SELECT c.relpersistence::text AS persistence,
       coalesce(sums.rows, 0)::float8 AS rows, coalesce(sums.pages, 0)::int AS pages,
       sums.heap_bytes::int8 AS heap_bytes,
       sums.dead_rows::int8 AS dead_rows,
       coalesce(sums.analyzed, true) AS analyzed,
       coalesce((SELECT option_value::int FROM pg_options_to_table(c.reloptions)
                  WHERE option_name = 'fillfactor'), 100) AS fillfactor,
       sums.autovacuum_off, (SELECT count(*) FROM family)::int - 1 AS children,
       EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid) AS has_rules,
       c.relreplident::text AS replica_identity,
       ARRAY(SELECT DISTINCT p.pubname::text
               FROM pg_publication_tables t JOIN pg_publication p USING (pubname)
               JOIN pg_class pc ON pc.relname = t.tablename
               JOIN pg_namespace pn ON pn.oid = pc.relnamespace AND pn.nspname = t.schemaname
               JOIN family f ON f.oid = pc.oid
              WHERE CASE %(event)s WHEN 'UPDATE' THEN p.pubupdate WHEN 'DELETE' THEN p.pubdelete
                                   ELSE p.pubinsert END
              ORDER BY 1) AS publications
  FROM pg_class c,
       LATERAL (SELECT sum(greatest(m.reltuples, 0)) FILTER (WHERE m.relkind <> 'p') AS rows,
                       bool_and(m.reltuples >= 0) FILTER (WHERE m.relkind <> 'p') AS analyzed,
                       sum(m.relpages) FILTER (WHERE m.relkind <> 'p') AS pages,
                       coalesce(sum(pg_relation_size(m.oid)), 0) AS heap_bytes,
                       coalesce(sum(pg_stat_get_dead_tuples(m.oid)), 0) AS dead_rows,
                       bool_or(EXISTS (SELECT FROM pg_options_to_table(m.reloptions)
                                        WHERE option_name = 'autovacuum_enabled'
                                          AND NOT option_value::bool)) AS autovacuum_off
                  FROM family JOIN pg_class m ON m.oid = family.oid) AS sums
 WHERE c.oid = %(oid)s
"""
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFacts:
    """Everything of one table, as it was when it was read.

    Attributes:
        planned_row_bytes: of a query's row, as the planner has it; None: the table itself is known.
    """

    name: str
    indexes: tuple[Index, ...]
    triggers: tuple[Trigger, ...]
    constraints: tuple[Constraint, ...]
    columns: tuple[ColumnFacts, ...]
    storage: Storage
    planned_row_bytes: int | None = None

    @property
    def row_bytes(self) -> int | None:
        """A row's average size on the heap, with its header; None: not known.

        From the statistics of its columns, else from the pages that its rows fill.
        """
        if self.planned_row_bytes is not None:
            return self.planned_row_bytes
        known = [column.average_bytes for column in self.columns]
        if known and None not in known:
            # 23 bytes of header, aligned to 8, and the line pointer (manual: page layout)
            return sum(width for width in known if width is not None) + 24 + 4
        if self.storage.rows >= 1 and self.storage.heap_bytes:
            return round(self.storage.heap_bytes / self.storage.rows)
        return None

    def column(self, name: str) -> ColumnFacts | None:
        """The column of that name."""
        return next((column for column in self.columns if column.name == name), None)


def table_facts(conn: Connection, oid: int, *, name: str, event: str) -> TableFacts:
    """Read a table.

    Args:
        event: what is done to it: INSERT, UPDATE or DELETE; it decides on the publications.
    """
    (storage,) = _all(conn, Storage, _STORAGE, oid, event)
    return TableFacts(
        name=name,
        indexes=_all(conn, Index, _INDEXES, oid, event),
        triggers=_all(conn, Trigger, _TRIGGERS, oid, event),
        constraints=_all(conn, Constraint, _CONSTRAINTS, oid, event),
        columns=_all(conn, ColumnFacts, _COLUMNS, oid, event),
        storage=storage,
    )


def facts_of_query(name: str, *, row_bytes: int | None) -> TableFacts:
    """What stands in a table's place and has nothing of a table."""
    return TableFacts(
        name=name,
        indexes=(),
        triggers=(),
        constraints=(),
        columns=(),
        storage=Storage(
            persistence="p",
            rows=0.0,
            pages=0,
            heap_bytes=0,
            dead_rows=0,
            analyzed=True,
            fillfactor=100,
            autovacuum_off=False,
            children=0,
            has_rules=False,
            replica_identity="d",
            publications=(),
        ),
        planned_row_bytes=row_bytes,
    )


def _all(
    conn: Connection, kind: type[T], statement: LiteralString, oid: int, event: str
) -> tuple[T, ...]:
    with conn.cursor(row_factory=class_row(kind)) as cursor:
        return tuple(cursor.execute(statement, {"oid": oid, "event": event}).fetchall())
