"""Connections to PostgreSQL, and the settings under which our transactions run.

Invariants kept here:
- I5: every connection notices a dead peer; every transaction has time-outs for statements, locks
  and idleness, set by SET LOCAL, so that a transaction pooler may sit between; statements by
  themselves have the connection's, where none does.
- I6: keys travel as text under fixed DateStyle, TimeZone, IntervalStyle, extra_float_digits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, cast

import psycopg
from psycopg import sql
from psycopg.abc import Buffer
from psycopg.adapt import Loader
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow
from psycopg.types.datetime import (
    DateLoader,
    IntervalLoader,
    TimeLoader,
    TimestampLoader,
    TimestamptzLoader,
    TimetzLoader,
)

from backfill.errors import UnreachableError
from backfill.url import safe_url

Connection = psycopg.Connection[TupleRow]

#: Seconds after which unacknowledged data ends a connection, on both sides. With the idle time-out
#: below, it is shorter than the lease that is shipped, so that a lost holder's row locks go before
#: its slice is given to another; with a shorter lease the reconciler ends the holder's backend.
TCP_USER_TIMEOUT_SECONDS = 5.0
#: A batch holds row locks while Python transforms; a holder that is stopped there is cut off.
IDLE_IN_TRANSACTION_SECONDS = 5.0


#: Where PostgreSQL's source (syncrep.c) says that it has given up waiting for a standby.
_WAITING_FOR_STANDBY = "SyncRepWaitForLSN"


class _LenientLoader(Loader):
    """Gives what Python's types cannot hold as PostgreSQL's text.

    That is infinity, BC and the year 10000 of dates, 24:00 of times, months and years of intervals.
    """

    inner: type[Loader]

    def __init__(self, oid: int, context: Any | None = None) -> None:
        super().__init__(oid, context)
        self._load = self.inner(oid, context).load

    def load(self, data: Buffer) -> Any:
        try:
            return self._load(data)
        except psycopg.DataError:
            return bytes(data).decode()


class _WholeIntervalLoader(IntervalLoader):
    """Refuses months and years, of which psycopg makes 30 and 365 days: they have no length.

    A row that is read and written back must not be changed by that.
    """

    def load(self, data: Buffer) -> timedelta:
        text = bytes(data)
        if b"mon" in text or b"year" in text:
            raise psycopg.DataError("months and years have no fixed length")
        return super().load(data)


def _lenient(inner: type[Loader]) -> type[Loader]:
    return type(f"Lenient{inner.__name__}", (_LenientLoader,), {"inner": inner})


_LENIENT_LOADERS = {
    "date": _lenient(DateLoader),
    "timestamp": _lenient(TimestampLoader),
    "timestamptz": _lenient(TimestamptzLoader),
    "time": _lenient(TimeLoader),
    "timetz": _lenient(TimetzLoader),
    "interval": _lenient(_WholeIntervalLoader),
}


def connect(
    url: str, *, application_name: str = "backfill", limits: Limits | None = None
) -> Connection:
    """Open an autocommit connection that notices a dead peer within seconds.

    A transaction pooler such as PgBouncer may sit between (the server's process is not the one that
    greeted us): then nothing is set on the session but the style of dates, where it is another than
    usual, and statements are not prepared. Statements outside `transaction` then have the pooler's
    time-outs (PgBouncer's query_timeout) and no others.

    Args:
        limits: of statements outside `transaction`, without a pooler; None: SINGLE_LIMITS.

    Raises:
        UnreachableError: the server does not answer, or refuses this login.
    """
    try:
        conn = psycopg.connect(
            url,
            autocommit=True,
            application_name=application_name,
            # whatever the database or the role has: our own texts and a user's are Unicode
            client_encoding="UTF8",
            connect_timeout=10,
            keepalives=1,
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
            tcp_user_timeout=int(TCP_USER_TIMEOUT_SECONDS * 1000),
        )
        if conn.execute("SELECT pg_backend_pid()").fetchone() != (conn.info.backend_pid,):
            conn.prepare_threshold = None
        else:
            bound = limits or SINGLE_LIMITS
            conn.execute(
                "SELECT set_config('lock_timeout', %s, false),"
                " set_config('statement_timeout', %s, false)",
                [
                    f"{bound.lock_timeout_seconds * 1000:.0f}ms",
                    f"{bound.statement_timeout_seconds * 1000:.0f}ms",
                ],
            )
        # psycopg reads instants in this style only. A role or a database may have another default;
        # poolers keep a session's DateStyle for their client, as few other settings.
        if not (conn.info.parameter_status("DateStyle") or "").startswith("ISO"):
            conn.execute("SET DateStyle = 'ISO, YMD'")
    except (psycopg.Error, UnicodeError) as error:
        shown = safe_url(url)
        if shown.endswith("…") or isinstance(error, UnicodeError):
            # libpq quotes what it takes for a host or a parameter: that may be a password's part
            raise UnreachableError(
                f"PostgreSQL at {shown} cannot be used: {type(error).__name__}, not quoted, since"
                " a part of the URL that may be the password's would be in it",
                remedy="In the URL, write @ as %40, / as %2F, ? as %3F, # as %23 and % as %25.",
            ) from None
        raise UnreachableError(
            f"PostgreSQL at {shown} cannot be used: {_first_line(error)}",
            remedy="Check that the server runs, and the address, user and password in the URL; with"
            " TLS also its sslmode and sslrootcert.",
        ) from error
    for name, loader in _LENIENT_LOADERS.items():
        conn.adapters.register_loader(name, loader)
    return conn


def is_standby(conn: Connection) -> bool:
    """Whether the server follows another one now."""
    return conn.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)


def refuse_standby(conn: Connection) -> None:
    """Batches cannot be worked where nothing can be locked or written.

    Raises:
        UnreachableError: the server is a standby.
    """
    if is_standby(conn):
        raise UnreachableError(
            "PostgreSQL takes no writes: it is a standby now",
            remedy="Point the database's URL at the primary.",
        )


def refuse_standby_source(conn: Connection) -> None:
    """Rows cannot be copied from a standby: some would be missed, and nobody would know (I2).

    It shows no transaction of its primary that still writes, so those with rows behind the cursor
    cannot be waited for; and it may lag behind the horizon.

    Raises:
        UnreachableError: the server is a standby.
    """
    if is_standby(conn):
        raise UnreachableError(
            "the source's database is a standby: rows that its primary commits late are missed",
            remedy="Point the source's URL at the primary.",
        )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The time-outs of one transaction, in seconds; see `Options`."""

    lock_timeout_seconds: float
    statement_timeout_seconds: float
    idle_seconds: float = IDLE_IN_TRANSACTION_SECONDS


#: For the ledger's own short transactions: a slice's row may be held for one batch.
LEDGER_LIMITS = Limits(lock_timeout_seconds=35.0, statement_timeout_seconds=40.0)
#: For reads of the user's tables outside batches (horizon, bounds of slices, totals, checks).
READ_LIMITS = Limits(lock_timeout_seconds=2.0, statement_timeout_seconds=30.0)
#: For statements by themselves, which are the ledger's: none takes so long but where the server is
#: in trouble. That nobody has timed it makes its end a person's (failure.py), so it comes late.
SINGLE_LIMITS = Limits(lock_timeout_seconds=35.0, statement_timeout_seconds=300.0)
#: For those who do not work for a run: what fills the demo's tables.
NO_LIMITS = Limits(lock_timeout_seconds=0.0, statement_timeout_seconds=0.0, idle_seconds=0.0)


def application_name(run: str, slice_number: int, epoch: int) -> str:
    """How a batch's backend is found in pg_stat_activity."""
    return session_name("backfill ", run, f" {slice_number}.{epoch}")


def session_name(before: str, run: str, after: str = "") -> str:
    """The name of a run's session, with at most the 63 bytes that PostgreSQL keeps.

    A long run id loses its beginning, never the random end that makes it unique.
    """
    return f"{before}{run[-(63 - len(before) - len(after)) :]}{after}"


@lru_cache(maxsize=256)
def begin_statement(
    limits: Limits,
    *,
    name: str,
    run: str,
    in_batch: bool,
    joins_freely: bool = False,
    reads_only: bool = False,
) -> sql.SQL:
    """BEGIN and its settings, as one message.

    `client_min_messages` lets the warning pass that a commit was not confirmed (`transaction`).
    `row_security = off` turns rows hidden by a policy into an error instead of a loss (I2).
    `backfill.run` is the setting by which users' triggers recognise our writes.
    Deferred constraints are checked at once: in COMMIT they would fail outside every time-out.
    A batch does not ask for READ WRITE: where an operator or a full disk has made read-only the
    default, it stops, and the ledger's own transactions can still record why.
    Hash and merge joins are off in batches, because a join of a batch with its table must not turn
    into a scan of the table when the planner's estimate of the batch crosses a threshold. A page of
    a query that stands by itself joins freely: what its tables need is not ours to say.
    """
    kind = "READ COMMITTED" if in_batch else "READ COMMITTED READ WRITE"
    if reads_only:
        kind = "REPEATABLE READ READ ONLY"
    parts = [
        sql.SQL(f"BEGIN ISOLATION LEVEL {kind}"),
        *(
            sql.SQL("SET LOCAL {} = {}").format(sql.SQL(setting), sql.Literal(value))
            for setting, value in {
                "statement_timeout": f"{limits.statement_timeout_seconds * 1000:.0f}ms",
                "lock_timeout": f"{limits.lock_timeout_seconds * 1000:.0f}ms",
                "idle_in_transaction_session_timeout": f"{limits.idle_seconds * 1000:.0f}ms",
                "tcp_user_timeout": f"{TCP_USER_TIMEOUT_SECONDS * 1000:.0f}ms",
                "client_connection_check_interval": "500ms",
                "TimeZone": "UTC",
                "DateStyle": "ISO, YMD",
                "IntervalStyle": "postgres",
                "extra_float_digits": "1",
                "bytea_output": "hex",
                "array_nulls": "on",
                "row_security": "off",
                "client_min_messages": "warning",
                "application_name": name,
                "backfill.run": run,
            }.items()
        ),
    ]
    if in_batch and not joins_freely:
        parts += [
            sql.SQL("SET LOCAL enable_hashjoin = off"),
            sql.SQL("SET LOCAL enable_mergejoin = off"),
        ]
    if in_batch:
        parts.append(sql.SQL("SET CONSTRAINTS ALL IMMEDIATE"))
    return sql.SQL(sql.SQL("; ").join(parts).as_string(None))


@contextmanager
def transaction(
    conn: Connection,
    limits: Limits = LEDGER_LIMITS,
    *,
    name: str = "backfill",
    run: str = "",
    in_batch: bool = False,
    joins_freely: bool = False,
    reads_only: bool = False,
    on_unconfirmed: Callable[[], None] | None = None,
) -> Iterator[None]:
    """One transaction under `limits`; commits at the end, rolls back on any exception.

    A failure of COMMIT itself is raised as it comes: whether it took effect must then be read from
    the ledger, never tried again (I1).

    Args:
        reads_only: it reads, and all of it as it was at one instant: from one statement to the
            next a run that works could come to have a pause.
        on_unconfirmed: called when the commit holds here, but its wait for a synchronous standby
            was cancelled: a warning of PostgreSQL's, no error. No time-out ends that wait.
    """
    conn.execute(
        begin_statement(
            limits,
            name=name,
            run=run,
            in_batch=in_batch,
            joins_freely=joins_freely,
            reads_only=reads_only,
        )
    )
    try:
        yield
    except BaseException:
        roll_back(conn)
        raise
    if on_unconfirmed is None:
        conn.execute("COMMIT")
        return
    heard: list[str | None] = []

    def hear(warning: psycopg.errors.Diagnostic) -> None:
        heard.append(warning.source_function)  # its words are translated

    conn.add_notice_handler(hear)
    try:
        conn.execute("COMMIT")
    finally:
        conn.remove_notice_handler(hear)
    if _WAITING_FOR_STANDBY in heard:
        on_unconfirmed()


@contextmanager
def trial(
    conn: Connection, limits: Limits, *, name: str, run: str, joins_freely: bool = False
) -> Iterator[None]:
    """A batch's transaction that is rolled back at the end, whatever happened in it."""
    conn.execute(
        begin_statement(limits, name=name, run=run, in_batch=True, joins_freely=joins_freely)
    )
    try:
        yield
    finally:
        roll_back(conn)


def server_time(conn: Connection) -> datetime:
    """The instant now, by the server's clock; aware."""
    return cast("tuple[datetime]", conn.execute("SELECT clock_timestamp()").fetchone())[0]


def roll_back(conn: Connection) -> None:
    """End the open transaction, if the connection still can; a broken one is closed."""
    try:
        if conn.info.transaction_status != TransactionStatus.IDLE:
            conn.execute("ROLLBACK")
    except psycopg.Error:
        conn.close()
