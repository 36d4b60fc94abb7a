"""Who waits for whom: sessions that a batch holds up, those that hold ours up, standbys."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, LiteralString

from psycopg import sql

from backfill.pg.connect import READ_LIMITS, Connection, transaction

# No lock is taken on a table. pg_blocking_pids takes all lock partitions for a moment, so it is
# asked only of sessions that wait for a lock, which in a healthy database is nobody. The function
# below the view pg_stat_activity saves the view's joins. What this role may not see (sessions of
# other roles, without pg_read_all_stats) has no wait_event_type here, and is not yielded to.
_BLOCKED = """
WITH session AS MATERIALIZED (
    SELECT pid, application_name, wait_event_type FROM pg_stat_get_activity(NULL)
     WHERE datid = (SELECT oid FROM pg_database WHERE datname = current_database())
), waiting AS MATERIALIZED (
    SELECT pid FROM session
     WHERE wait_event_type = 'Lock' AND application_name NOT LIKE 'backfill%'
)
SELECT EXISTS (
    SELECT FROM waiting, unnest(pg_blocking_pids(waiting.pid)) AS holder
      JOIN session ON session.pid = holder AND session.application_name LIKE 'backfill %')
"""

# Locks of a whole table that a batch cannot share: held, or asked for by a session in the queue
# before ours. No query is quoted: it may hold values of rows. Takes no lock on a table.
_LOCKING = """
WITH session AS MATERIALIZED (
    SELECT pid, format('process %%s (%%s)', pid, coalesce(
               nullif(application_name, ''), pg_get_userbyid(usesysid), 'unknown')) AS told
      FROM pg_stat_get_activity(NULL)
     WHERE coalesce(application_name, '') NOT LIKE 'backfill%%'
)
SELECT DISTINCT format('%%s %%s %%s on %%s%%s', session.told,
           CASE WHEN granted THEN 'holds' ELSE 'waits for' END, mode, relation::regclass,
           ', behind ' || (SELECT string_agg(other.told, ' and ' ORDER BY other.pid)
               FROM session AS other
              WHERE NOT granted AND other.pid = ANY(pg_blocking_pids(locking.pid))))
  FROM pg_locks AS locking JOIN session USING (pid)
 WHERE locktype = 'relation' AND relation = ANY(%s::oid[])
   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
 ORDER BY 1
"""

#: For how many seconds a commit has waited for synchronous standbys; 0: none does. Other roles'
#: waits are hidden without pg_read_all_stats. Every commit waits a little where there are any.
UNCONFIRMED: Final[LiteralString] = """
    (SELECT coalesce(max(extract(epoch FROM clock_timestamp() - query_start)), 0)::float8
       FROM pg_stat_activity WHERE wait_event = 'SyncRep')"""


def unconfirmed_seconds(conn: Connection) -> float:
    """For so long a commit has waited for synchronous standbys; 0: none does."""
    row = conn.execute(sql.SQL("SELECT" + UNCONFIRMED)).fetchone()
    return row[0] if row else 0.0


def somebody_waits_for_us(conn: Connection) -> bool:
    """True when another session of this database waits for a batch, of whichever run."""
    row = conn.execute(_BLOCKED).fetchone()
    return bool(row and row[0])


def who_locks(conn: Connection, tables: Collection[int]) -> str:
    """Sessions whose locks keep batches from these tables (oids), in words; empty: none is known.

    Opens a transaction of its own.
    """
    with transaction(conn, READ_LIMITS):
        found = conn.execute(_LOCKING, [list(tables)]).fetchall()
    return "; ".join(line for (line,) in found)
