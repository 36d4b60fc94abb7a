"""Whether another session waits for a lock that a batch of ours holds."""

from __future__ import annotations

from backfill.pg.connect import Connection

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


def somebody_waits_for_us(conn: Connection) -> bool:
    """True when another session of this database waits for a batch, of whichever run."""
    row = conn.execute(_BLOCKED).fetchone()
    return bool(row and row[0])
