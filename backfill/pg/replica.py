"""One replica whose URL is in the settings, asked how far it has replayed.

1. Every answer comes within `CONNECT_SECONDS` + `ANSWER_SECONDS` or is an error. The replica's own
   time-outs do not serve: a stopped server acknowledges what we send, and enforces nothing. So the
   wait for its answer is ours (libpq's asynchronous calls), and a connection that let us wait is
   closed.
2. A replica that failed is tried again every `RETRY_SECONDS`; until then the last error stands.
3. What is asked needs no privilege, reads no table and takes no lock.
"""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg.pq import ExecStatus

from backfill.clock import Clock
from backfill.errors import ProjectError
from backfill.pg.connect import Connection
from backfill.signals import UnreadableError
from backfill.url import UrlVariable, safe_url

#: libpq waits no shorter.
CONNECT_SECONDS: Final = 2
ANSWER_SECONDS: Final = 2.0
RETRY_SECONDS: Final = 5.0

# The identifier is the cluster's: a standby has its primary's.
IDENTIFIER: Final = "SELECT system_identifier::text FROM pg_control_system()"
_POSITION: Final = (
    "SELECT pg_is_in_recovery(), (pg_last_wal_replay_lsn() - '0/0'::pg_lsn)::int8,"
    " extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """How far a replica is.

    Attributes:
        position: the end of the WAL that it has replayed, in bytes.
        transaction_age_seconds: of the last transaction that it has replayed, by its own clock;
            None where there was none since its start. More than its lag when the primary is idle.
        cluster: the identifier that it shares with its primary; None where it may not be read.
    """

    position: int
    transaction_age_seconds: float | None
    cluster: str | None


class Replica:
    """A replica's connection, opened when it is first asked; used by one thread at a time."""

    def __init__(self, variable: UrlVariable, *, clock: Clock) -> None:
        self.variable = variable
        self._clock = clock
        self._conn: Connection | None = None
        self._cluster: str | None = None
        self._failed_at: float | None = None
        self._problem = ""

    def replayed(self) -> Replayed:
        """Ask it.

        Raises:
            UnreadableError: it is away, or is no standby; in words that name its variable.
        """
        now = self._clock.monotonic()
        if self._failed_at is not None and now - self._failed_at < RETRY_SECONDS:
            raise UnreadableError(self._problem)
        try:
            answer = self._ask_position()
        except (ProjectError, OSError, psycopg.Error) as error:
            self.close()
            self._failed_at = self._clock.monotonic()
            self._problem = f"replica {self.variable.name} {self._words(error)}"
            raise UnreadableError(self._problem) from error
        self._failed_at = None
        return answer

    def close(self) -> None:
        """Close its connection, if there is one; it is opened again when it is asked."""
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def _ask_position(self) -> Replayed:
        if self._conn is None:
            self._conn = psycopg.connect(
                self.variable.postgres(),
                autocommit=True,
                application_name="backfill signals",
                connect_timeout=CONNECT_SECONDS,
            )
            try:
                self._cluster = _ask(self._conn, IDENTIFIER)[0]
            except psycopg.errors.InsufficientPrivilege:
                self._cluster = None
        in_recovery, position, age = _ask(self._conn, _POSITION)
        if in_recovery != "t" or position is None:
            raise psycopg.OperationalError(
                "it is no standby: promoted, or the URL is another server's"
            )
        return Replayed(
            position=int(position),
            transaction_age_seconds=None if age is None else float(age),
            cluster=self._cluster,
        )

    def _words(self, error: Exception) -> str:
        if isinstance(error, ProjectError):
            return f"has no URL: {error.message}"
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        where = safe_url(self.variable.raw or "")
        return f"({where}) cannot be read: {first or type(error).__name__}"


def _ask(conn: Connection, statement: str) -> Sequence[str | None]:
    """The one row that a statement gives, as texts, within ANSWER_SECONDS.

    Raises:
        psycopg.Error: the server refuses the statement.
        OSError: it does not answer, or hung up.
    """
    server = conn.pgconn
    until = time.monotonic() + ANSWER_SECONDS
    server.send_query(statement.encode())
    while server.flush():
        _wait(server.socket, until, write=True)
    results = []
    while True:  # to the end, also of an error: the connection is free then
        while server.is_busy():
            _wait(server.socket, until)
            server.consume_input()
        result = server.get_result()
        if result is None:
            break
        results.append(result)
    if len(results) != 1 or results[0].status != ExecStatus.TUPLES_OK:
        raise psycopg.errors.error_from_result(results[0])
    values = (results[0].get_value(0, column) for column in range(results[0].nfields))
    return [None if value is None else value.decode() for value in values]


def _wait(socket: int, until: float, *, write: bool = False) -> None:
    """Wait until the socket is ready. `poll`, for `select` knows no descriptor above 1024."""
    poller = select.poll()
    poller.register(socket, select.POLLOUT | select.POLLIN if write else select.POLLIN)
    left = until - time.monotonic()
    if left <= 0 or not poller.poll(left * 1000):
        raise TimeoutError(f"no answer within {ANSWER_SECONDS:g} s")
