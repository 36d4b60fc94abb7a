"""What a server and a login are, as far as it matters before any work; for `backfill doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final, LiteralString

from psycopg import sql
from psycopg.rows import class_row

from backfill.pg.blocking import UNCONFIRMED
from backfill.pg.connect import READ_LIMITS, Connection, transaction

# Sessions that are not ours to see count all the same: pg_stat_activity has a line for each.
# A login without the right to see others' states is told so by pg_has_role.
_ABOUT: Final[LiteralString] = """
SELECT current_setting('server_version') AS version,
       current_setting('server_version_num')::int AS version_number,
       current_database() AS database,
       quote_ident(current_user) AS role,
       (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS is_superuser,
       pg_is_in_recovery() AS is_standby,
       current_setting('default_transaction_read_only')::bool AS is_read_only,
       pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all,
       coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS is_encrypted,
       inet_server_addr() IS NULL OR inet_server_addr() <<= '127.0.0.0/8'
         OR inet_server_addr() = '::1' AS is_local,
       current_setting('max_connections')::int
         - current_setting('superuser_reserved_connections')::int
         - coalesce(current_setting('reserved_connections', true)::int, 0) AS connections,
       (SELECT count(*) FROM pg_stat_activity
         WHERE backend_type = 'client backend')::int AS connected,
       (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS role_connections,
       (extract(epoch FROM current_setting('deadlock_timeout')::interval))::float8
         AS deadlock_seconds,
       current_setting('fsync')::bool AS fsync,
       current_setting('full_page_writes')::bool AS full_page_writes,
       current_setting('autovacuum')::bool AS autovacuum,
       current_setting('track_activities')::bool AS track_activities,
       clock_timestamp() AS now,
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """A server, and the login that looked.

    Attributes:
        role: quoted where SQL needs it.
        sees_all: it may see what other roles' sessions do (`pg_read_all_stats`).
        is_local: over a socket, or within this machine.
        connections: how many there may be, without those kept for superusers.
        role_connections: how many this role may have; -1: any number.
        unconfirmed_seconds: for so long a commit has waited for synchronous standbys; 0: none does.
        now: the server's clock.
    """

    version: str
    version_number: int
    database: str
    role: str
    is_superuser: bool
    is_standby: bool
    is_read_only: bool
    sees_all: bool
    is_encrypted: bool
    is_local: bool
    connections: int
    connected: int
    role_connections: int
    deadlock_seconds: float
    fsync: bool
    full_page_writes: bool
    autovacuum: bool
    track_activities: bool
    unconfirmed_seconds: float
    now: datetime


def about(conn: Connection) -> About:
    """Look at the server; no user's table is touched."""
    with (
        transaction(conn, READ_LIMITS, in_batch=True),
        conn.cursor(row_factory=class_row(About)) as cursor,
    ):
        found = cursor.execute(sql.SQL(_ABOUT + UNCONFIRMED + " AS unconfirmed_seconds")).fetchone()
    if found is None:
        raise AssertionError("a SELECT without FROM has a row")
    return found
