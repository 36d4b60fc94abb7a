"""Which tables' rows a relation has, and where a deletion goes on: by inheritance, views, cascades.

All of it is read from the catalog, which takes no lock on a table.
"""

from __future__ import annotations

from typing import Final, LiteralString

from backfill.pg.catalog import Relation
from backfill.pg.connect import Connection

# All whose rows a scan of the first gives.
_SCANNED: Final[LiteralString] = """
scanned (oid) AS (
  SELECT %(source)s::oid UNION
  SELECT i.inhrelid FROM scanned JOIN pg_inherits i ON i.inhparent = scanned.oid)
"""

# All that an insert into the first may write: its partitions, but not what inherits from it, and of
# a view that PostgreSQL writes through (8: INSERT) the tables that it is made of, by its rule.
_WRITTEN: Final[LiteralString] = """
written (oid) AS (
  SELECT %(target)s::oid UNION
  SELECT part.oid FROM written CROSS JOIN LATERAL (
    SELECT i.inhrelid FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = written.oid AND c.relispartition
    UNION ALL
    SELECT d.refobjid FROM pg_rewrite r
      JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
     WHERE r.ev_class = written.oid AND r.ev_type = '1' AND d.refobjid <> written.oid
       AND d.refclassid = 'pg_class'::regclass
       AND pg_relation_is_updatable(written.oid, false) & 8 <> 0
  ) AS part (oid))
"""

_SHARED = f"""
WITH RECURSIVE {_SCANNED}, {_WRITTEN}
SELECT EXISTS (SELECT FROM scanned JOIN written USING (oid))
"""

# Each foreign key ON DELETE CASCADE that a deletion in the source sets off, however indirectly. The
# keys of a partitioned table's partitions are of their own in the catalog.
_CASCADED = f"""
WITH RECURSIVE {_SCANNED}, {_WRITTEN}, cascade (oid, key) AS (
  SELECT f.conrelid, f.oid FROM scanned JOIN pg_constraint f ON f.confrelid = scanned.oid
   WHERE f.contype = 'f' AND f.confdeltype = 'c'
   UNION
  SELECT f.conrelid, f.oid FROM cascade JOIN pg_constraint f ON f.confrelid = cascade.oid
   WHERE f.contype = 'f' AND f.confdeltype = 'c')
SELECT min(format('%%I of %%s', f.conname, f.conrelid::regclass))
  FROM cascade JOIN pg_constraint f ON f.oid = cascade.key
 WHERE cascade.oid IN (SELECT oid FROM scanned UNION SELECT oid FROM written)
"""


def shares_rows(conn: Connection, source: Relation, target: Relation) -> bool:
    """Whether rows that are inserted into the target can be rows of the source."""
    return _first(conn, _SHARED, source, target) is True


def cascade_into(conn: Connection, source: Relation, target: Relation) -> str | None:
    """A foreign key by which deleting rows of the source deletes others of it, or of the target."""
    found = _first(conn, _CASCADED, source, target)
    return found if isinstance(found, str) else None


def _first(
    conn: Connection, statement: LiteralString, source: Relation, target: Relation
) -> object:
    row = conn.execute(statement, {"source": source.oid, "target": target.oid}).fetchone()
    return row[0] if row else None
