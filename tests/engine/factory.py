"""Makes tables and runs for the engine's tests, and works the runs in this process.

    site = Worksite(url)
    site.numbers(1_000)                      # table t (id, n, label, done)
    done = site.run(Increment, threads=2)    # enqueue, work to the end, read the ledger
    assert done.state == "succeeded"

Whatever a test waits for is an event: a row in the ledger, a lock that the server shows, a point
of a batch that a `Gate` stands at. Every wait is bounded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg import sql

from backfill.clock import Clock, SystemClock
from backfill.engine import lifecycle
from backfill.engine.begin import begin
from backfill.engine.bench import Bench, Probe, no_probe
from backfill.engine.enqueue import create_run
from backfill.engine.here import Crew
from backfill.engine.pace import Pace
from backfill.engine.setup import make_bench
from backfill.job import Bounds, Job, Options
from backfill.job.declaration import declaration_of
from backfill.model import Counts, PauseCause
from backfill.pg.connect import Connection, connect
from backfill.pg.ledger import EventRecord, Pause, Run, events, get_run, open_ledger, pauses, totals
from backfill.pg.quarantine import QuarantinedRow, quarantined_rows
from backfill.settings import EngineSettings

T = TypeVar("T")

#: Leases so short that a killed holder's slice is free again in a moment.
QUICK = EngineSettings(lease_seconds=1.0, sweep_seconds=30.0, begin_wait_seconds=20.0)
#: The longest that any test waits for an event.
BOUND_SECONDS = 30.0


def until(condition: Callable[[], T | None], *, what: str, seconds: float = BOUND_SECONDS) -> T:
    """Wait until `condition` returns something true; fail, saying what was waited for."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.005)
    return found


class Gate:
    """A probe that holds a batch at a named point, inside its transaction, until it is opened.

    Args:
        point: one of the names in engine/batch.py.
        visit: at which visit of that point, from 1.
    """

    def __init__(self, point: str, *, visit: int = 1) -> None:
        self._point = point
        self._left = visit
        self._reached = threading.Event()
        self._opened = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, point: str) -> None:
        if point != self._point:
            return
        with self._lock:
            self._left -= 1
            is_it = self._left == 0
        if is_it:
            self._reached.set()
            assert self._opened.wait(BOUND_SECONDS), "nobody opened the gate"

    def wait(self) -> None:
        """Until a batch stands at the point."""
        assert self._reached.wait(BOUND_SECONDS), f"no batch came to {self._point!r}"

    def open(self) -> None:
        """Let it go on."""
        self._opened.set()


class AtVisit:
    """A probe that calls a function once, at the n-th visit of a named point."""

    def __init__(self, point: str, visit: int, action: Callable[[], object]) -> None:
        self._point, self._left, self._action = point, visit, action

    def __call__(self, point: str) -> None:
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                self._action()


class FakeClock:
    """A clock whose sleep takes no time; its wall clock and monotonic time go on together."""

    def __init__(self, now: datetime) -> None:
        self._start = now.astimezone(UTC)
        self.seconds = 0.0
        self.slept: list[float] = []
        self._lock = threading.Lock()

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self.seconds)

    def hear(self, now: datetime) -> None:
        """It is the test's time that counts."""

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.seconds += seconds
            self.slept.append(seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the ledger says of a run."""

    run: Run
    counts: Counts
    by_phase: Mapping[str, int]
    events: Sequence[EventRecord]
    pauses: Sequence[Pause]
    quarantine: Sequence[QuarantinedRow]

    @property
    def state(self) -> str:
        return self.run.state

    @property
    def event_names(self) -> list[str]:
        return [event.name for event in self.events]

    def event(self, name: str) -> EventRecord:
        """The first event of that name."""
        return next(event for event in self.events if event.name == name)

    @property
    def why_paused(self) -> str:
        """Cause and reason of the only pause."""
        (pause,) = self.pauses
        return f"{pause.cause}: {pause.reason}"


class Worksite:
    """A database with the ledger in it, and the means to work runs there.

    Args:
        source_url: of the database that rows are copied from, where it is another.
    """

    def __init__(self, url: str, *, source_url: str | None = None) -> None:
        self.url = url
        self.source_url = source_url
        self.conn: Connection = connect(url)
        self.ledger = open_ledger(self.conn, schema="backfill")

    def close(self) -> None:
        self.conn.close()

    # --- tables -----------------------------------------------------------------------------

    def execute(self, statement: str, *arguments: object) -> None:
        """Run a statement of the test's own."""
        self.conn.execute(sql.SQL(statement), arguments or None)

    def rows(self, statement: str, *arguments: object) -> list[tuple[Any, ...]]:
        """The lines that a statement returns."""
        return self.conn.execute(sql.SQL(statement), arguments or None).fetchall()

    def value(self, statement: str, *arguments: object) -> Any:
        """The only value of the only line."""
        ((value,),) = self.rows(statement, *arguments)
        return value

    def numbers(self, rows: int, *, name: str = "t") -> None:
        """A table (id bigint PRIMARY KEY, n int 0, label text, done boolean false)."""
        self.execute(
            f"CREATE TABLE {name} (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0, label text,"
            " done boolean NOT NULL DEFAULT false)"
        )
        self.execute(f"INSERT INTO {name} (id) SELECT generate_series(1, %s)", rows)
        self.execute(f"ANALYZE {name}")

    @contextmanager
    def session(self) -> Iterator[Connection]:
        """Another session, with transactions of its own: the application's."""
        with psycopg.connect(self.url) as other:
            yield other
            other.rollback()

    # --- runs -------------------------------------------------------------------------------

    def enqueue(
        self,
        job: type[Job],
        *,
        options: Options | None = None,
        bounds: Bounds | None = None,
        **params: object,
    ) -> Run:
        """Check the job and write a queued run."""
        source_conn = None if self.source_url is None else connect(self.source_url)
        try:
            run, _ = create_run(
                self.conn,
                self.ledger,
                declaration_of(job),
                params=params,
                options=options,
                bounds=bounds,
                executor="local",
                by="the test",
                source_conn=source_conn,
            )
        finally:
            if source_conn is not None:
                source_conn.close()
        return run

    def bench(
        self,
        job: type[Job],
        run: Run,
        *,
        settings: EngineSettings = QUICK,
        clock: Clock | None = None,
        pace: Pace | None = None,
        probe: Probe = no_probe,
        stopping: Callable[[], bool] = lambda: False,
        role: str | None = None,
        max_slots: int | None = None,
    ) -> Bench:
        """A workbench with a connection of its own, which the caller closes; as `role` if given."""
        clock = clock or SystemClock()

        def connect_as() -> Connection:
            conn = connect(self.url)
            if role is not None:
                conn.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
            return conn

        bench = make_bench(
            connect_as,
            self.ledger,
            run,
            declaration_of(job),
            settings=settings,
            clock=clock,
            pace=pace or Pace(clock, Options.from_json(run.options)),
            stopping=stopping,
            max_slots=max_slots,
            connect_source=None if self.source_url is None else partial(connect, self.source_url),
        )
        bench.probe = probe
        return bench

    def begun(
        self,
        job: type[Job],
        *,
        options: Options | None = None,
        bounds: Bounds | None = None,
        **params: object,
    ) -> Run:
        """Enqueue a run and let it begin: its horizon is read, no slice is placed yet."""
        run = self.enqueue(job, options=options, bounds=bounds, **params)
        bench = self.bench(job, run)
        assert begin(bench).state == "running"
        bench.close()
        return run

    @contextmanager
    def crew(
        self,
        job: type[Job],
        run: Run,
        *,
        threads: int = 1,
        wait_seconds: float = BOUND_SECONDS,
        **bench: Any,
    ) -> Iterator[Crew]:
        """Threads at work on the run while the block runs; joined after it, in so many seconds."""
        crew = Crew(
            lambda stop: self.bench(job, run, stopping=stop, **bench),
            size=threads,
            clock=SystemClock(),
        )
        crew.start()
        try:
            yield crew
        except BaseException:
            crew.stop()
            raise
        finally:
            ended = crew.join(wait_seconds)
            crew.stop()
        assert ended, f"the crew is still at work: {self.outcome(run)}"

    def work(self, job: type[Job], run: Run, *, threads: int = 1, **bench: Any) -> Outcome:
        """Work a run until it ends or pauses."""
        with self.crew(job, run, threads=threads, **bench):
            pass
        return self.outcome(run)

    def run(
        self,
        job: type[Job],
        *,
        options: Options | None = None,
        bounds: Bounds | None = None,
        threads: int = 1,
        params: Mapping[str, object] | None = None,
        **bench: Any,
    ) -> Outcome:
        """Enqueue and work; for `bench` see there."""
        run = self.enqueue(job, options=options, bounds=bounds, **(params or {}))
        return self.work(job, run, threads=threads, **bench)

    def outcome(self, run: Run) -> Outcome:
        """What the ledger says now."""
        total = totals(self.conn, self.ledger, run.id)
        assert total.counts.adds_up, f"the counts of {run.id} do not add up: {total.counts}"
        return Outcome(
            run=get_run(self.conn, self.ledger, run.id),
            counts=total.counts,
            by_phase=total.by_phase,
            events=events(self.conn, self.ledger, run.id),
            pauses=pauses(self.conn, self.ledger, run.id),
            quarantine=quarantined_rows(self.conn, self.ledger, run.id),
        )

    def pause(self, run: Run, cause: PauseCause = PauseCause.USER) -> bool:
        """Add a cause to pause, as Ada."""
        return lifecycle.pause(
            self.conn, self.ledger, run.id, cause, reason="asked for", ends="by resume", by="Ada"
        )

    def lift(self, run: Run, cause: PauseCause = PauseCause.ERROR) -> None:
        """Take a cause of a pause away; it must be there."""
        assert lifecycle.lift(self.conn, self.ledger, run.id, [cause], by="the test")

    # --- what tests wait for ----------------------------------------------------------------

    def until_state(self, run: Run, *states: str) -> Outcome:
        """Wait until the run is in one of the states."""

        def reached() -> bool:
            return get_run(self.conn, self.ledger, run.id).state in states

        until(reached, what=f"{run.id} to be {' or '.join(states)}")
        return self.outcome(run)

    def until_event(self, run: Run, name: str) -> EventRecord:
        """Wait until the ledger has an event of that name."""

        def found() -> EventRecord | None:
            matching = [e for e in events(self.conn, self.ledger, run.id) if e.name == name]
            return matching[0] if matching else None

        return until(found, what=f"{run.id}'s event {name}")

    def until_waiting(self, pid: int) -> None:
        """Wait until the backend waits for a lock."""
        until(
            lambda: self.rows("SELECT 1 FROM pg_locks WHERE pid = %s AND NOT granted", pid),
            what=f"process {pid} to wait for a lock",
        )


def with_options(options: Options, **changes: Any) -> Options:
    """The options with some changed."""
    return replace(options, **changes)
