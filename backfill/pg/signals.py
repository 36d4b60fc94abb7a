"""Reads the signals of a database for its live runs, once for all workers.

Invariants:
1. Whatever is wrong with one signal is that signal's reading (`problem`); only a dead connection to
   the ledger's database is raised. So one dead replica or query never hides the other signals.
2. Nothing is read that this role sees only a part of: what pg_stat_activity hides is not zero.
3. A round takes a few statements, each asked once however many runs there are, none of which reads
   a user's table or takes a lock on one. Replicas and Prometheus are asked meanwhile, by threads,
   and waited for `REMOTE_SECONDS` at most; the user's queries have `QUERIES_SECONDS` together.
4. No transaction is open while we wait for anything but its own statement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Final, Generic, TypeVar, cast

from backfill.clock import Clock
from backfill.pg import health, prometheus
from backfill.pg.connect import Connection
from backfill.pg.ledger import Ledger, Run
from backfill.pg.replica import IDENTIFIER, Replayed, Replica
from backfill.pg.slowdown import RECENT_SECONDS, Slowdown
from backfill.pg.wal import WalHistory
from backfill.settings import DatabaseSettings
from backfill.signals import Reading, SignalSpec, UnreadableError

__all__ = ["Reading", "SignalReader"]

#: A replica has 2 s to let us in and 2 s to answer, a Prometheus 2 s; what hangs longer (a name
#: that cannot be looked up) is left behind, and waited for again in the next round.
REMOTE_SECONDS: Final = 5.0
#: All SQL queries of the user's in one round; each has health.QUERY_SECONDS.
QUERIES_SECONDS: Final = 3.0
#: Between the two looks that a reader's very first round may take, at the WAL or at a replica.
SECOND_LOOK_SECONDS: Final = 0.25
_MOST_THREADS: Final = 16

T = TypeVar("T")
#: A value and what it is of.
Value = tuple[float, str]


class SignalReader:
    """Reads every signal of one database; used by one thread.

    It keeps the replicas' connections, the last positions of the WAL and each run's usual time for
    a row: one reader for as long as a process samples.

    Args:
        database: whose signals, and with which replicas and Prometheus.
        clock: its `monotonic` is what lags and rates are measured by.
    """

    def __init__(self, database: DatabaseSettings, *, clock: Clock) -> None:
        self._specs = dict(database.signals)
        self._ignored = database.ignored_standbys
        self._clock = clock
        self._wal = WalHistory()
        self._cluster: str | None = None
        self._slowdowns: dict[str, Slowdown] = {}
        self._replicas = {
            Replica(variable, clock=clock): _Remote[Replayed](f"replica {variable.name}")
            for variable in database.replicas
        }
        self._queries = {
            spec.name: partial(prometheus.query, database.prometheus, spec.query)
            for spec in self._specs.values()
            if spec.kind == "prometheus" and database.prometheus is not None
        }
        self._answers = {
            name: _Remote[float](f"Prometheus, asked for {name}") for name in self._queries
        }
        remotes = len(self._replicas) + len(self._queries)
        self._pool = ThreadPoolExecutor(min(remotes, _MOST_THREADS), "signals") if remotes else None
        self._measures: Mapping[str, Callable[[_Round, Run], Value]] = {
            "replication_lag_seconds": self._replication_lag_seconds,
            "replication_lag_bytes": self._replication_lag_bytes,
            "replica_lag_seconds": self._replica_lag_seconds,
            "blocked_seconds": self._blocked_seconds,
            "active_sessions_percent": self._active_sessions_percent,
            "wal_bytes_per_second": self._wal_bytes_per_second,
            "oldest_transaction_seconds": self._oldest_transaction_seconds,
            "vacuums_on_target": self._vacuums_on_target,
            "dead_rows_percent": self._dead_rows_percent,
            "batch_slowdown": self._batch_slowdown,
        }

    def read(
        self, conn: Connection, ledger: Ledger, runs: Sequence[Run]
    ) -> Mapping[str, list[Reading]]:
        """One reading of each signal of the settings, for each of these runs, by the run's id.

        Opens short read-only transactions of its own; none may be open.

        Raises:
            psycopg.OperationalError: `conn` is dead; nothing else is ever raised.
        """
        self._slowdowns = {run.id: self._slowdowns.get(run.id, Slowdown()) for run in runs}
        if not runs:
            return {}
        if self._pool is not None:
            for replica, remote in self._replicas.items():
                remote.start(self._pool, replica.replayed)
            for name, query in self._queries.items():
                self._answers[name].start(self._pool, query)
        a_round = _Round(conn, ledger, [run.id for run in runs], self._clock)
        return {
            run.id: [self._reading(a_round, spec, run) for spec in self._specs.values()]
            for run in runs
        }

    def close(self) -> None:
        """Close the connections to replicas; one that is being asked, when it has answered."""
        for replica, remote in self._replicas.items():
            remote.then(replica.close)
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _reading(self, a_round: _Round, spec: SignalSpec, run: Run) -> Reading:
        try:
            if spec.kind == "sql":
                value, detail = a_round.query(spec.name, spec.query), ""
            elif spec.kind == "prometheus":
                value, detail = self._answer(a_round, spec.name), ""
            else:
                value, detail = self._measures[spec.name](a_round, run)
        except UnreadableError as error:
            return Reading(name=spec.name, value=None, problem=str(error))
        return Reading(name=spec.name, value=value, detail=detail)

    # -- what the primary says ----------------------------------------------------------------

    def _server(self, a_round: _Round) -> health.Server:
        return a_round.once("server", lambda: self._look(a_round.conn))

    def _look(self, conn: Connection) -> health.Server:
        server = health.server(conn)
        if server.position is not None:
            self._wal.record(self._clock.monotonic(), server.position)
        return server

    def _seen(self, a_round: _Round) -> health.Server:
        """The server, where this role may see the sessions of others."""
        server = self._server(a_round)
        if not server.sees_all:
            raise UnreadableError(
                f"role {server.role} may not see other sessions:"
                f" GRANT pg_read_all_stats TO {server.role}"
            )
        return server

    def _standbys(self, a_round: _Round) -> list[health.Standby]:
        self._seen(a_round)  # which has recorded the WAL's position, for a standby's lag
        return a_round.once("standbys", lambda: health.standbys(a_round.conn, self._ignored))

    def _replication_lag_seconds(self, a_round: _Round, _: Run) -> Value:
        lags = [
            (self._lag(standby.replayed, standby.reported_seconds), standby.name)
            for standby in self._standbys(a_round)
        ]
        return max(lags, default=(0.0, "no standby is connected"))

    def _replication_lag_bytes(self, a_round: _Round, _: Run) -> Value:
        lags = [
            (float(max(0, standby.written - standby.replayed)), standby.name)
            for standby in self._standbys(a_round)
        ]
        return max(lags, default=(0.0, "no standby is connected"))

    def _lag(self, replayed: int, reported_seconds: float | None) -> float:
        """Seconds since the WAL passed that position; what is reported is asked for older times."""
        now = self._clock.monotonic()
        known = self._wal.lag_seconds(replayed, now)
        return (
            known if known is not None else max(self._wal.known_seconds(now), reported_seconds or 0)
        )

    def _blocked_seconds(self, a_round: _Round, run: Run) -> Value:
        if not self._seen(a_round).waiting:
            return 0.0, ""
        everyone = a_round.once("blocked", lambda: health.blocked(a_round.conn))
        ours = [one for one in everyone if one.is_by(run.id)]
        if not ours:
            return 0.0, ""
        worst = max(ours, key=lambda one: one.seconds)
        others = f", and {len(ours) - 1} more" if len(ours) > 1 else ""
        return worst.seconds, f"pid {worst.pid} of {worst.who}{others}"

    def _active_sessions_percent(self, a_round: _Round, _: Run) -> Value:
        server = self._seen(a_round)
        limit = max(1, server.connections)
        return 100.0 * server.active / limit, f"{server.active} of {limit}"

    def _oldest_transaction_seconds(self, a_round: _Round, _: Run) -> Value:
        self._seen(a_round)
        oldest = a_round.once("oldest", lambda: health.oldest_transaction(a_round.conn))
        return (0.0, "") if oldest is None else (max(0.0, oldest[1]), oldest[0])

    def _wal_bytes_per_second(self, a_round: _Round, _: Run) -> Value:
        def rate() -> float:
            if self._server(a_round).position is None:
                raise UnreadableError("the server is a standby, which writes no WAL")
            known = self._wal.bytes_per_second()
            if known is None:
                self._clock.sleep(SECOND_LOOK_SECONDS)
                self._look(a_round.conn)
                known = self._wal.bytes_per_second()
            if known is None:
                raise UnreadableError("no time has passed between two looks at the WAL")
            return known

        return a_round.once("rate", rate), ""

    # -- what is a run's own ------------------------------------------------------------------

    def _tables(self, a_round: _Round, run: Run) -> health.Tables | None:
        return a_round.once(
            "tables", lambda: health.tables(a_round.conn, a_round.ledger, a_round.runs)
        ).get(run.id)

    def _vacuums_on_target(self, a_round: _Round, run: Run) -> Value:
        self._seen(a_round)
        found = self._tables(a_round, run)
        return (0.0, "it writes no table") if found is None else (float(found.vacuums), "")

    def _dead_rows_percent(self, a_round: _Round, run: Run) -> Value:
        found = self._tables(a_round, run)
        if found is None:
            return 0.0, "it writes no table"
        rows = found.dead_rows + found.live_rows
        return (100.0 * found.dead_rows / rows if rows else 0.0), f"{found.dead_rows:,.0f} rows"

    def _batch_slowdown(self, a_round: _Round, run: Run) -> Value:
        seconds = a_round.once(
            "batches",
            lambda: health.batches(
                a_round.conn, a_round.ledger, a_round.runs, recent_seconds=RECENT_SECONDS
            ),
        )
        return self._slowdowns[run.id].sample(seconds.get(run.id))

    # -- what others say ----------------------------------------------------------------------

    def _replica_lag_seconds(self, a_round: _Round, _: Run) -> Value:
        return a_round.once("replicas", lambda: self._worst_replica(a_round))

    def _worst_replica(self, a_round: _Round) -> Value:
        if self._server(a_round).position is None:
            raise UnreadableError("the server is a standby, so its replicas' lag is not known")
        lags, problems = [(0.0, "")], []
        for replica, remote in self._replicas.items():
            try:
                replayed = remote.answer(a_round.remote_seconds)
                if self._is_unsure(replayed) and self._pool is not None:
                    self._clock.sleep(SECOND_LOOK_SECONDS)
                    remote.start(self._pool, replica.replayed)
                    replayed = remote.answer(a_round.remote_seconds)
                lags.append((self._replica_lag(a_round, replayed), replica.variable.name))
            except UnreadableError as error:
                problems.append(
                    f"{error}; if it is gone for good, take {replica.variable.name} out of"
                    f" {replica.variable.named_in}"
                )
        if problems:
            raise UnreadableError(". ".join(problems))
        return max(lags)

    def _is_unsure(self, replayed: Replayed) -> bool:
        """True when a replica is behind our very first look at the WAL, maybe by an instant only.

        An idle primary's last transaction is old. A replica that has not replayed what was written
        just now would lag by all that time.
        """
        now = self._clock.monotonic()
        first = self._wal.known_seconds(now) < SECOND_LOOK_SECONDS
        return first and self._wal.lag_seconds(replayed.position, now) is None

    def _replica_lag(self, a_round: _Round, replayed: Replayed) -> float:
        if self._cluster is None:
            self._cluster = a_round.once(
                "cluster", lambda: health.cluster(a_round.conn, IDENTIFIER)
            )
        if None not in (self._cluster, replayed.cluster) and replayed.cluster != self._cluster:
            raise UnreadableError("its server is a standby of another cluster")
        return self._lag(replayed.position, replayed.transaction_age_seconds)

    def _answer(self, a_round: _Round, name: str) -> float:
        if name not in self._answers:
            raise UnreadableError("the settings name no Prometheus (prometheus_url_env)")
        key = f"Prometheus {name}"
        return a_round.once(key, lambda: self._answers[name].answer(a_round.remote_seconds))


class _Remote(Generic[T]):
    """A question to somebody who may not answer, asked by a thread; one at a time.

    Args:
        title: who is asked, for messages.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._future: Future[T] | None = None

    def start(self, pool: ThreadPoolExecutor, ask: Callable[[], T]) -> None:
        """Ask again, unless the last question is still open."""
        if self._future is None or self._future.done():
            self._future = pool.submit(ask)

    def answer(self, seconds: float) -> T:
        """What it says.

        Raises:
            UnreadableError: it says why not, or nothing in so many seconds.
        """
        if self._future is None:
            raise UnreadableError(f"{self._title} was not asked")
        try:
            return self._future.result(timeout=max(0.0, seconds))
        except TimeoutError as error:
            raise UnreadableError(f"{self._title} does not answer") from error

    def then(self, close: Callable[[], None]) -> None:
        """Close when nobody asks any more, which may be now."""
        if self._future is None:
            close()
        else:
            self._future.add_done_callback(lambda _: close())


class _Round:
    """One round of reading: what was asked in it, and what it has still time for."""

    def __init__(self, conn: Connection, ledger: Ledger, runs: list[str], clock: Clock) -> None:
        self.conn = conn
        self.ledger = ledger
        self.runs = runs
        self._clock = clock
        self._began = clock.monotonic()
        self._query_seconds = 0.0
        self._found: dict[str, object] = {}

    @property
    def remote_seconds(self) -> float:
        """How much longer anybody remote is waited for."""
        return REMOTE_SECONDS - (self._clock.monotonic() - self._began)

    def once(self, key: str, ask: Callable[[], T]) -> T:
        """What `ask` gives, asked for once in the round; an error is remembered as well."""
        if key not in self._found:
            try:
                self._found[key] = ask()
            except UnreadableError as error:
                self._found[key] = error
        found = self._found[key]
        if isinstance(found, UnreadableError):
            raise UnreadableError(str(found)) from found
        return cast("T", found)

    def query(self, name: str, text: str) -> float:
        """The number of a user's query, while there is time for it in this round."""

        def ask() -> float:
            if self._query_seconds >= QUERIES_SECONDS:
                raise UnreadableError(
                    f"not asked: the queries before it took the {QUERIES_SECONDS:g} s of a round"
                )
            before = self._clock.monotonic()
            try:
                return health.number(self.conn, text)
            finally:
                self._query_seconds += self._clock.monotonic() - before

        return self.once(f"query {name}", ask)
