"""What a server is like, and who is at work on it now, as far as a batch has to know.

Reads settings and the server's memory; no lock is taken on a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, LiteralString

from psycopg.rows import class_row

from backfill.pg.connect import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The server and its settings, as this role's session has them; times in seconds.

    Attributes:
        transaction_timeout: of PostgreSQL 17; 0: none, also where there is no such setting.
        own_settings: what ALTER ROLE and ALTER DATABASE say for this role, by name.
        connected_synchronous: standbys that commits wait for; 0, too, where that is hidden.
        free_connections: that roles without privileges may still open.
        sees_all: this role may see what other roles' sessions do.
        idle_slots: replication slots that nobody reads from.
    """

    version: int
    is_standby: bool
    read_only: bool
    deadlock_timeout: float
    transaction_timeout: float
    idle_session_timeout: float
    wal_level: str
    full_page_writes: bool
    synchronous_commit: str
    synchronous_standbys: str
    connected_synchronous: int
    autovacuum: bool
    replication_role: str
    own_settings: Mapping[str, str]
    free_connections: int
    sees_all: bool
    idle_slots: Sequence[str]


# pg_settings has no line for a setting that this version lacks.
_SERVER: Final[LiteralString] = """
WITH timeouts AS MATERIALIZED (
    SELECT name, setting::float8 / 1000 AS seconds FROM pg_settings WHERE unit = 'ms')
SELECT current_setting('server_version_num')::int AS version, pg_is_in_recovery() AS is_standby,
       current_setting('default_transaction_read_only')::bool AS read_only,
       (SELECT seconds FROM timeouts WHERE name = 'deadlock_timeout') AS deadlock_timeout,
       coalesce((SELECT seconds FROM timeouts WHERE name = 'transaction_timeout'), 0)
         AS transaction_timeout,
       coalesce((SELECT seconds FROM timeouts WHERE name = 'idle_session_timeout'), 0)
         AS idle_session_timeout,
       current_setting('wal_level') AS wal_level,
       current_setting('full_page_writes')::bool AS full_page_writes,
       current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('synchronous_standby_names') AS synchronous_standbys,
       (SELECT count(*)::int FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum'))
         AS connected_synchronous,
       current_setting('autovacuum')::bool AND current_setting('track_counts')::bool AS autovacuum,
       current_setting('session_replication_role') AS replication_role,
       (SELECT coalesce(jsonb_object_agg(split_part(line, '=', 1),
                                         substr(line, strpos(line, '=') + 1)), '{}')
          FROM (SELECT unnest(setconfig) AS line FROM pg_db_role_setting
                 WHERE setdatabase IN (0, (SELECT oid FROM pg_database
                                            WHERE datname = current_database()))
                   AND setrole IN (0, (SELECT oid FROM pg_roles WHERE rolname = session_user))
                 ORDER BY setrole, setdatabase) AS lines) AS own_settings,
       current_setting('max_connections')::int
         - current_setting('superuser_reserved_connections')::int
         - coalesce(current_setting('reserved_connections', true)::int, 0)
         - (SELECT count(*)::int FROM pg_stat_activity WHERE backend_type = 'client backend')
         AS free_connections,
       pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all,
       ARRAY(SELECT slot_name::text FROM pg_replication_slots WHERE NOT active ORDER BY 1)
         AS idle_slots
"""


def server(conn: Connection) -> Server:
    """Read the server's settings."""
    with conn.cursor(row_factory=class_row(Server)) as cursor:
        (found,) = cursor.execute(_SERVER).fetchall()
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTransaction:
    """A transaction that is open; `who` quotes no statement, which may hold values of rows."""

    who: str
    seconds: float


# A VACUUM does not hold back another; a prepared transaction does.
_OPEN: Final[LiteralString] = """
SELECT who, seconds FROM (
    SELECT format('process %%s (%%s, %%s)', pid, coalesce(nullif(application_name, ''), usename),
                  state) AS who,
           extract(epoch FROM clock_timestamp() - xact_start)::float8 AS seconds
      FROM pg_stat_activity AS a
     WHERE datname = current_database() AND backend_type = 'client backend'
       AND coalesce(application_name, '') NOT LIKE 'backfill%%' AND xact_start IS NOT NULL
       AND NOT EXISTS (SELECT FROM pg_stat_progress_vacuum AS v WHERE v.pid = a.pid)
    UNION ALL
    SELECT 'the prepared transaction ' || quote_literal(gid),
           extract(epoch FROM clock_timestamp() - prepared)::float8
      FROM pg_prepared_xacts WHERE database = current_database()
) AS open WHERE seconds >= %(seconds)s ORDER BY seconds DESC LIMIT 3
"""


def open_transactions(conn: Connection, *, seconds: float) -> list[OpenTransaction]:
    """The oldest transactions of others in this database that are open for so long."""
    with conn.cursor(row_factory=class_row(OpenTransaction)) as cursor:
        return cursor.execute(_OPEN, {"seconds": seconds}).fetchall()
