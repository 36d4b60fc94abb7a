"""The statements that signals are read by on the primary.

1. Each runs in a short read-only transaction of its own, with a time-out: one that fails or takes
   long spoils no other. All read the server's memory and the ledger, never a user's table, and take
   no lock on one: what waits behind an ALTER TABLE must not take the signals with it.
2. PostgreSQL hides from a role without `pg_read_all_stats` what other roles' sessions do: it says
   NULL, which a count would take for calm. So whether it may look is asked first.
3. Our own sessions do not count. They are known by `application_name` (connect.py).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import class_row

from backfill.pg.connect import Connection, roll_back
from backfill.pg.failure import classify
from backfill.pg.ledger import Ledger
from backfill.signals import UnreadableError

#: Of a statement of ours.
OWN_SECONDS: Final = 2.0
#: Of a query of the user's: it runs once a second.
QUERY_SECONDS: Final = 1.0

#: Sessions whose wait is looked into in one round: pg_blocking_pids holds up the lock manager.
MOST_WAITING: Final = 50
_BATCH = re.compile(r"backfill (.+) \d+\.\d+")
#: PostgreSQL keeps so many bytes of a name (NAMEDATALEN - 1).
_WHOLE_NAME: Final = 63

_BEGIN: Final = (
    "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; SET LOCAL statement_timeout = {};"
    " SET LOCAL lock_timeout = {}; SET LOCAL idle_in_transaction_session_timeout = '5s';"
    " SET LOCAL row_security = off; SET LOCAL client_connection_check_interval = '500ms';"
    " SET LOCAL application_name = 'backfill signals'"
)

# pg_stat_activity is read once: one pass over the sessions in shared memory, no lock.
# The position is NULL on a standby. `reserved_connections` is of PostgreSQL 16.
_SERVER: Final[LiteralString] = """
SELECT quote_ident(current_user) AS role, pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all,
       CASE WHEN NOT pg_is_in_recovery()
            THEN (pg_current_wal_lsn() - '0/0'::pg_lsn)::int8 END AS position,
       current_setting('max_connections')::int
         - current_setting('superuser_reserved_connections')::int
         - coalesce(current_setting('reserved_connections', true)::int, 0) AS connections,
       count(*) FILTER (WHERE state = 'active' AND backend_type = 'client backend')::int AS active,
       count(*) FILTER (WHERE wait_event_type = 'Lock')::int AS waiting
  FROM pg_stat_activity
 WHERE application_name <> 'backfill' AND NOT starts_with(application_name, 'backfill ')
   AND pid <> pg_backend_pid()
"""

# A standby that is being copied (`backup`) replays nothing, nor does pg_receivewal (NULL); what a
# logical subscriber confirms is its own affair. replay_lag is only asked for a start: see wal.py.
_STANDBYS: Final[LiteralString] = """
SELECT coalesce(nullif(r.application_name, ''), 'pid ' || r.pid) AS name,
       (pg_current_wal_lsn() - '0/0'::pg_lsn)::int8 AS written,
       (r.replay_lsn - '0/0'::pg_lsn)::int8 AS replayed,
       extract(epoch FROM r.replay_lag)::float8 AS reported_seconds
  FROM pg_stat_replication AS r
 WHERE r.state IN ('streaming', 'catchup') AND r.replay_lsn IS NOT NULL
   AND r.application_name <> ALL (%(ignored)s::text[])
   AND NOT EXISTS (SELECT FROM pg_replication_slots AS s
                    WHERE s.active_pid = r.pid AND s.slot_type = 'logical')
"""

# Only when somebody waits for a lock at all. pg_blocking_pids takes the lock manager's locks for a
# moment, so it is asked for the waiting alone, and for so many at most: those whose statement is
# the oldest. pg_locks.waitstart is NULL for an instant after the wait began.
_BLOCKED: Final[LiteralString] = """
WITH waiting AS MATERIALIZED (
    SELECT pid, coalesce(nullif(application_name, ''), usename, '?') AS who
      FROM pg_stat_activity
     WHERE wait_event_type = 'Lock' AND backend_type NOT IN ('autovacuum worker', 'parallel worker')
       AND application_name <> 'backfill' AND NOT starts_with(application_name, 'backfill ')
     ORDER BY query_start
     LIMIT %(most)s
), blocked AS MATERIALIZED (
    SELECT pid, who, pg_blocking_pids(pid) AS blockers FROM waiting
), since AS MATERIALIZED (
    SELECT pid, min(waitstart) AS at FROM pg_locks WHERE NOT granted GROUP BY pid
)
SELECT ours.application_name AS batch, blocked.pid, blocked.who,
       coalesce(greatest(extract(epoch FROM clock_timestamp() - since.at), 0), 0)::float8 AS seconds
  FROM blocked
  JOIN pg_stat_activity AS ours ON ours.pid = ANY (blocked.blockers)
   AND starts_with(ours.application_name, 'backfill ')
  LEFT JOIN since ON since.pid = blocked.pid
"""

# Open transactions that may hold back VACUUM in this database: a VACUUM itself does not, a prepared
# transaction does.
_OLDEST: Final[LiteralString] = """
SELECT who, seconds FROM (
    SELECT 'pid ' || pid || ' of ' || coalesce(nullif(application_name, ''), usename, '?') AS who,
           extract(epoch FROM clock_timestamp() - xact_start)::float8 AS seconds
      FROM pg_stat_activity AS a
     WHERE backend_type = 'client backend' AND datname = current_database()
       AND application_name <> 'backfill' AND NOT starts_with(application_name, 'backfill ')
       AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
       AND NOT EXISTS (SELECT FROM pg_stat_progress_vacuum AS v WHERE v.pid = a.pid)
    UNION ALL
    SELECT 'prepared transaction ' || gid,
           extract(epoch FROM clock_timestamp() - prepared)::float8
      FROM pg_prepared_xacts WHERE database = current_database()
) AS open ORDER BY seconds DESC LIMIT 1
"""

# What each run claimed to write, with its partitions; the counts are those that autovacuum works
# by. A dropped table has no oid and counts nothing.
_TABLES: Final[LiteralString] = """
WITH RECURSIVE part AS (
    SELECT run, to_regclass(relation)::oid AS oid FROM {s}.write_claim
     WHERE run = ANY (%(runs)s) GROUP BY run, relation
    UNION
    SELECT part.run, i.inhrelid FROM part JOIN pg_inherits AS i ON i.inhparent = part.oid
)
SELECT run,
       coalesce(sum(pg_stat_get_dead_tuples(oid)), 0)::float8 AS dead_rows,
       coalesce(sum(pg_stat_get_live_tuples(oid)), 0)::float8 AS live_rows,
       (SELECT count(*) FROM pg_stat_progress_vacuum AS v
         WHERE v.datname = current_database()
           AND v.relid IN (SELECT p.oid FROM part AS p WHERE p.run = part.run))::int AS vacuums
  FROM part GROUP BY run
"""

# The slices that are held, by the index slice_slot.
_BATCHES: Final[LiteralString] = """
SELECT run, sum(batch_seconds) AS seconds, sum(batch_rows)::float8 AS rows
  FROM {s}.slice
 WHERE run = ANY (%(runs)s) AND slot IS NOT NULL AND batch_rows > 0
   AND progress_at > clock_timestamp() - make_interval(secs => %(recent)s)
 GROUP BY run
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The server at one moment: counts of sessions that are not ours.

    Attributes:
        role: ours, quoted where SQL needs it.
        sees_all: this role may see what other roles' sessions do; else the counts are of no use.
        position: the end of its WAL, in bytes; None: it is a standby.
        connections: how many there may be, without those kept for superusers.
    """

    role: str
    sees_all: bool
    position: int | None
    connections: int
    active: int
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standby:
    """One physical standby as the primary sees it; positions in bytes of WAL."""

    name: str
    written: int
    replayed: int
    reported_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """A session that waits for a lock of a batch: of which, and how long."""

    batch: str
    pid: int
    who: str
    seconds: float

    def is_by(self, run: str) -> bool:
        """True when the batch is one of that run's."""
        match = _BATCH.fullmatch(self.batch)
        if match is None:
            return False
        cut = len(self.batch) >= _WHOLE_NAME  # a long id has lost its beginning
        return match[1] == run or (cut and run.endswith(match[1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """What a run writes: rows by PostgreSQL's own count, and VACUUMs at work there."""

    run: str
    dead_rows: float
    live_rows: float
    vacuums: int


@contextmanager
def look(conn: Connection, seconds: float = OWN_SECONDS) -> Iterator[None]:
    """A read-only transaction in which a statement may take so long.

    Raises:
        UnreadableError: a statement failed; in words without any row's value.
        psycopg.OperationalError: the connection is dead.
    """
    limit = sql.Literal(f"{seconds * 1000:.0f}ms")
    try:
        conn.execute(sql.SQL(_BEGIN).format(limit, limit))
        yield
        conn.execute("COMMIT")
    except psycopg.Error as error:
        roll_back(conn)
        if conn.closed:
            raise psycopg.OperationalError("the connection was lost") from error
        if isinstance(error, psycopg.errors.QueryCanceled):
            raise UnreadableError(f"no answer within {seconds:g} s") from error
        fault = classify(error, writing=False, seconds=0, timeout=seconds)
        raise UnreadableError(fault.told) from error
    except BaseException:
        roll_back(conn)
        raise


def server(conn: Connection) -> Server:
    """The server's sessions and WAL."""
    with look(conn), conn.cursor(row_factory=class_row(Server)) as cursor:
        found: Server = _one(cursor.execute(_SERVER).fetchone())
    return found


def cluster(conn: Connection, identifier: LiteralString) -> str | None:
    """The cluster's identifier; None where this role may not read it."""
    try:
        with look(conn):
            return str(_one(conn.execute(identifier).fetchone())[0])
    except UnreadableError:
        return None


def standbys(conn: Connection, ignored: Sequence[str]) -> list[Standby]:
    """The physical standbys that are connected now, but for those named."""
    with look(conn), conn.cursor(row_factory=class_row(Standby)) as cursor:
        return cursor.execute(_STANDBYS, {"ignored": list(ignored)}).fetchall()


def blocked(conn: Connection) -> list[Blocked]:
    """Sessions that wait for a lock of one of our batches, of any run."""
    with look(conn), conn.cursor(row_factory=class_row(Blocked)) as cursor:
        return cursor.execute(_BLOCKED, {"most": MOST_WAITING}).fetchall()


def oldest_transaction(conn: Connection) -> tuple[str, float] | None:
    """Whose transaction is the oldest, and its age in seconds; None where there is none."""
    with look(conn):
        row = conn.execute(_OLDEST).fetchone()
    return None if row is None else (str(row[0]), float(row[1]))


def tables(conn: Connection, ledger: Ledger, runs: Sequence[str]) -> Mapping[str, Tables]:
    """What the runs write, by run; none for a run that writes no table."""
    with look(conn), conn.cursor(row_factory=class_row(Tables)) as cursor:
        found = cursor.execute(ledger.q(_TABLES), {"runs": list(runs)}).fetchall()
    return {row.run: row for row in found}


def batches(
    conn: Connection, ledger: Ledger, runs: Sequence[str], *, recent_seconds: float
) -> Mapping[str, float]:
    """Seconds a row of the last batches of each run that committed one so recently."""
    values = {"runs": list(runs), "recent": recent_seconds}
    with look(conn):
        rows = conn.execute(ledger.q(_BATCHES), values).fetchall()
    return {run: seconds / count for run, seconds, count in rows if seconds is not None}


def number(conn: Connection, query: str) -> float:
    """The one finite number that a user's query gives.

    It stands as an expression, so that PostgreSQL itself refuses several rows or columns, and is
    sent by the extended protocol, which takes one statement only.
    """
    text = query.strip().rstrip(";")
    with look(conn, QUERY_SECONDS), conn.cursor(binary=True) as cursor:
        # the project's own text, as a job's Sql is
        statement = sql.SQL("SELECT (\n{}\n)::float8").format(sql.SQL(text))
        (value,) = _one(cursor.execute(statement).fetchone())
    if value is None:
        raise UnreadableError("the query gives no value (no row, or NULL)")
    if not math.isfinite(value):
        raise UnreadableError(f"the query gives {value}")
    return float(value)


def _one(row: Any) -> Any:
    """The row of a statement that always gives one."""
    if row is None:
        raise UnreadableError("PostgreSQL gave no row")
    return row
