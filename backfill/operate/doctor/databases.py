"""Doctor: PostgreSQL, the login, the ledger, and what else the settings name of a database."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime

import psycopg

from backfill.errors import BackfillError, LedgerError
from backfill.job import Options
from backfill.operate.doctor.outcome import Notebook
from backfill.pg import server
from backfill.pg.connect import Connection, connect, is_standby
from backfill.pg.grants import missing_rights
from backfill.pg.install import may_upgrade
from backfill.pg.ledger import Ledger, open_ledger
from backfill.pg.server import About
from backfill.settings import DatabaseSettings, Settings
from backfill.url import safe_url
from backfill.watch.limits import UNCONFIRMED_SECONDS

#: The oldest PostgreSQL that the tests run against.
LEAST_VERSION = 15
#: Of a server's connections; a worker's child has one, and its main process a few.
FEW_CONNECTIONS = 10
#: Signals that ask what other roles' sessions do.
OF_SESSIONS = frozenset(
    {"active_sessions_percent", "blocked_seconds", "oldest_transaction_seconds"}
)
#: Clocks that are further apart make logs hard to read; leases and windows go by the server's.
CLOCK_SECONDS = 2.0


def examine_database(settings: Settings, name: str) -> tuple[Notebook, Ledger | None]:
    """Look at one database of the settings; its ledger, where it can be opened."""
    notes = Notebook(f"database {name}")
    database = settings.database(name)
    try:
        url = database.url
        conn = connect(url)
    except BackfillError as error:
        notes.error("unreachable", error.message, error.remedy or "Correct the URL.")
        return notes, None
    with closing(conn):
        try:
            found = server.about(conn)
            _server(notes, found, safe_url(url), is_read_only=database.source_only)
            _login(notes, conn, found)
            _room(notes, found)
            _clock(notes, found)
            if database.source_only:
                notes.ok("source-only", "it is only read: no ledger and no run has to be in it")
                return notes, None
            ledger = _ledger(notes, conn, found, settings.schema)
        except psycopg.Error as error:
            notes.error(
                "unreadable",
                f"it cannot be looked at: {type(error).__name__} ({error.sqlstate})",
                "Look into the server's log.",
            )
            return notes, None
    for replica in database.replicas:
        _replica(notes, replica.name, replica.postgres)
    _signals(notes, found, database)
    return notes, ledger


def _server(notes: Notebook, found: About, where: str, *, is_read_only: bool) -> None:
    version = f"PostgreSQL {found.version} at {where}, database {found.database}"
    if found.version_number < LEAST_VERSION * 10_000:
        notes.warning(
            "server-old",
            f"{version}: older than {LEAST_VERSION}, the oldest that is tested",
            f"Use PostgreSQL {LEAST_VERSION} or newer.",
        )
    else:
        notes.ok("server", version)
    if is_read_only:
        return
    if found.is_standby:
        notes.error(
            "server-standby",
            "it is a standby, to which nobody can write",
            "Let the URL name the primary; target_session_attrs=read-write finds it among several.",
        )
    elif found.is_read_only:
        notes.error(
            "server-read-only",
            f"its transactions are read-only by default for the role {found.role}",
            "Reset default_transaction_read_only, or use another role.",
        )
    if not found.fsync or not found.full_page_writes:
        notes.warning(
            "server-not-durable",
            "fsync or full_page_writes is off: a crash of the machine may lose or break anything",
            "Turn both on, unless the data can be thrown away.",
        )
    if not found.autovacuum:
        notes.warning(
            "autovacuum-off",
            "autovacuum is off: every updated row leaves a dead one that nobody clears away",
            "Turn it on before a backfill of any size.",
        )
    if found.unconfirmed_seconds >= UNCONFIRMED_SECONDS:
        notes.error(
            "standby-hangs",
            f"a commit has waited {found.unconfirmed_seconds:,.0f} s for a synchronous standby;"
            " no time-out ends that, and every write here waits as well",
            "Let the standby answer, or take it out of synchronous_standby_names and reload.",
        )
    least = Options().lock_timeout_seconds
    if found.deadlock_seconds <= least:
        notes.warning(
            "deadlock-timeout",
            f"deadlock_timeout is {found.deadlock_seconds:g} s, and a batch waits {least:g} s for"
            " a lock: in a deadlock the application may get the error, and not the batch",
            "Set lock_timeout_seconds of the jobs well below it.",
        )


def _login(notes: Notebook, conn: Connection, found: About) -> None:
    pooled = conn.prepare_threshold is None
    notes.ok(
        "login",
        f"role {found.role}{', through a pooler' if pooled else ''},"
        f" {'encrypted' if found.is_encrypted else 'not encrypted'}",
    )
    if not found.is_encrypted and not found.is_local and not pooled:
        notes.warning(
            "login-not-encrypted",
            "the connection leaves this machine without TLS",
            "Add sslmode=verify-full and sslrootcert to the URL.",
        )
    if found.is_superuser:
        notes.warning(
            "login-superuser",
            f"the role {found.role} is a superuser: row security and rights do not hold for it",
            "Use a role of its own, with the rights that a backfill needs.",
        )


def _room(notes: Notebook, found: About) -> None:
    free = found.connections - found.connected
    if free < FEW_CONNECTIONS:
        notes.warning(
            "connections-few",
            f"{found.connected} of {found.connections} connections are in use: workers may find"
            " none",
            "Raise max_connections, put a pooler between, or start fewer workers.",
        )
    if 0 <= found.role_connections < FEW_CONNECTIONS:
        notes.warning(
            "role-connections-few",
            f"the role {found.role} may have {found.role_connections} connections at once",
            f"ALTER ROLE {found.role} CONNECTION LIMIT with one for each child of each worker,"
            " and three for each worker.",
        )


def _clock(notes: Notebook, found: About) -> None:
    ahead = (datetime.now(UTC) - found.now).total_seconds()
    if abs(ahead) > CLOCK_SECONDS:
        notes.warning(
            "clock",
            f"this machine's clock is {abs(ahead):,.1f} s {'ahead of' if ahead > 0 else 'behind'}"
            " the server's; leases, windows and starts go by the server's",
            "Let both follow the time (NTP).",
        )


def _ledger(notes: Notebook, conn: Connection, found: About, schema: str) -> Ledger | None:
    try:
        ledger = open_ledger(conn, schema=schema)
    except LedgerError as error:
        remedy = error.remedy or "Run `backfill db upgrade`."
        if "db upgrade" in remedy and not may_upgrade(conn, schema=schema):
            remedy = (
                f"The role {found.role} may not do it: let the database's owner, or the ledger's,"
                " run `backfill db upgrade`, or what it prints with --sql."
            )
        notes.error("ledger", error.message, remedy)
        return None
    missing = missing_rights(conn, schema)
    if missing:
        notes.error(
            "ledger-rights",
            f"the role {found.role} lacks rights on the ledger: {'; '.join(missing)}",
            f"`backfill db grants {found.role}` prints what its owner has to run.",
        )
    else:
        notes.ok("ledger", f"ledger {ledger.id} in schema {schema}")
    return ledger


def _replica(notes: Notebook, variable: str, url: Callable[[], str]) -> None:
    try:
        with closing(connect(url())) as conn:
            follows = is_standby(conn)
    except (BackfillError, psycopg.Error) as error:
        said = error.message if isinstance(error, BackfillError) else type(error).__name__
        notes.error(
            "replica-unreachable",
            f"{variable}: {said}; runs on this database stop until it can be read",
            f"Mend it, or take {variable} out of replica_url_envs.",
        )
        return
    if follows:
        notes.ok("replica", f"{variable} answers")
    else:
        notes.error(
            "replica-primary",
            f"{variable} names a primary, which has no lag; runs on this database stop",
            f"Let {variable} name a replica.",
        )


def _signals(notes: Notebook, found: About, database: DatabaseSettings) -> None:
    hidden = sorted(OF_SESSIONS & database.signals.keys())
    if hidden and not found.sees_all:
        required = [name for name in hidden if database.signals[name].required]
        tell = notes.error if required else notes.warning
        tell(
            "signals-hidden",
            f"the role {found.role} may not see what other sessions do, so"
            f" {', '.join(required or hidden)} cannot be read"
            f"{'; runs on this database stop' if required else ''}",
            f"GRANT pg_read_all_stats TO {found.role};",
        )
    elif not found.track_activities:
        notes.warning(
            "signals-off",
            "track_activities is off: nobody can see who waits for a batch",
            "Turn it on.",
        )
    else:
        notes.ok("signals", f"signals: {', '.join(database.signals) or 'none'}")
