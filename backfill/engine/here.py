"""Working a run in this process: threads in place of Celery's workers, no Redis needed.

Each thread has a slot, a connection and a workbench of its own. What the reconciler does for
workers (freeing lapsed slices, opening windows) the threads do for themselves. The signals are
measured beside them (worker/beside.py), which ends the pauses for signals, too.

A thread that loses its connection, or gets none because the role may have no more, tries again. It
gives up, and the others with it, only when no thread has worked for PATIENCE_SECONDS: one of them
that works shows that the database is there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import psycopg
import structlog

from backfill.clock import Clock
from backfill.engine import lifecycle
from backfill.engine.bench import Bench
from backfill.engine.report import Ended
from backfill.engine.work import work
from backfill.errors import BackfillError, UnreachableError
from backfill.events import Event
from backfill.job import Options
from backfill.model import PauseCause, RunState
from backfill.pg.ledger import get_run, pauses

log = structlog.get_logger("backfill")

#: How long the threads go on trying while the database is away.
PATIENCE_SECONDS = 120.0
#: Who was at work for so long before an error had the database until then: its loss is found sooner
#: (RECONNECT_SECONDS, and the time to connect).
FOUND_SECONDS = 30.0
IDLE_SECONDS = 0.1
#: Pauses that end without anybody who would start this process again.
WAITED_FOR = frozenset({PauseCause.WINDOW, PauseCause.SIGNAL})


class Beside(Protocol):
    """What runs beside the threads as long as one of them works."""

    def start(self) -> None:
        """Start it."""

    def stop(self) -> None:
        """End it; may be called again."""


class Crew:
    """Threads that work one run until it ends, pauses, or `stop` is called.

    Args:
        make_bench: makes a workbench; called in each thread with the function that says "stop".
        beside: started before them and stopped after them.
    """

    def __init__(
        self,
        make_bench: Callable[[Callable[[], bool]], Bench],
        *,
        size: int,
        clock: Clock,
        beside: Beside | None = None,
    ) -> None:
        self._beside = beside
        self._make_bench = make_bench
        self._clock = clock
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self._size = size
        self._threads: dict[int, threading.Thread] = {}
        self._at_work: set[int] = set()
        self._worked_at = float("-inf")
        self._lock = threading.Lock()  # of the four above
        self._is_ended = threading.Event()  # one of the threads has seen the run's end, or a pause

    def start(self) -> None:
        """Start the threads."""
        if self._beside is not None:
            self._beside.start()
        self._fill()

    def stop(self) -> None:
        """Let the batches in hand finish; then the threads end."""
        self._stop.set()

    def join(self, seconds: float | None = None) -> bool:
        """Wait for the threads, at most so long; True when all have ended.

        Raises:
            BackfillError: the first that ended a thread.
        """
        while threads := self._alive():
            for thread in threads:
                thread.join(seconds)
            if seconds is not None and self._alive():
                return False
        if self._beside is not None:
            self._beside.stop()
        if self._errors:
            raise self._errors[0]
        return True

    def _alive(self) -> list[threading.Thread]:
        with self._lock:
            return [thread for thread in self._threads.values() if thread.is_alive()]

    def _fill(self) -> None:
        """Start a thread for each slot that has none."""
        with self._lock:
            for slot in range(self._size):
                if slot not in self._threads and not self._stop.is_set():
                    thread = threading.Thread(
                        target=self._work, args=(slot,), name=f"backfill-{slot}"
                    )
                    self._threads[slot] = thread
                    thread.start()

    def _resize(self, options: Options) -> None:
        """The run was tuned: more slots begin at once; a slot too many ends by itself."""
        with self._lock:
            self._size = options.concurrency
        self._fill()

    def _may_end(self, slot: int) -> bool:
        """True when the run still has fewer slots: from then on another thread may fill it."""
        with self._lock:
            if slot < self._size:
                return False
            del self._threads[slot]
            return True

    def _work(self, slot: int) -> None:
        try:
            self._work_until_the_end(slot)
        except BaseException as error:  # noqa: BLE001 - a thread's boundary: join() raises it
            self._errors.append(error)
            self._stop.set()

    def _work_until_the_end(self, slot: int) -> None:
        bench: Bench | None = None
        away_since: float | None = None
        try:
            while not self._stop.is_set():
                try:
                    if bench is None:
                        bench = self._make_bench(self._stop.is_set)
                        bench.on_tune = self._resize
                    with self._working(slot):
                        report = work(bench, slot=slot)
                    away_since = None
                    if report.ended is Ended.SLOT_CLOSED and self._may_end(slot):
                        break
                    if self._is_over(bench):
                        self._is_ended.set()
                        break
                except (psycopg.OperationalError, UnreachableError) as error:
                    _leave(bench)
                    bench = None
                    if self._is_ended.is_set():
                        break  # there is nothing left to connect for
                    now = self._clock.monotonic()
                    away_since = now if away_since is None else away_since
                    _check_patience(self._nobody_for(now, away_since), error)
                    log.warning(Event.DATABASE_UNREACHABLE, error=type(error).__name__)
                    self._stop.wait(0.5)
                self._stop.wait(IDLE_SECONDS)
        finally:
            _leave(bench)

    @contextmanager
    def _working(self, slot: int) -> Iterator[None]:
        """A thread is at work; it may be for as long as the run is."""
        since = self._clock.monotonic()
        with self._lock:
            self._at_work.add(slot)
        is_well = False
        try:
            yield
            is_well = True
        finally:
            now = self._clock.monotonic()
            with self._lock:
                self._at_work.discard(slot)
                if is_well or now - since >= FOUND_SECONDS:
                    self._worked_at = now

    def _nobody_for(self, now: float, away_since: float) -> float:
        """How long no thread has worked, and this one has tried in vain; seconds."""
        with self._lock:
            return 0.0 if self._at_work else now - max(away_since, self._worked_at)

    def _is_over(self, bench: Bench) -> bool:
        run = get_run(bench.conn, bench.ledger, bench.run.id)
        if run.run_state is not RunState.PAUSED:
            return not run.run_state.is_live
        causes = {pause.cause for pause in pauses(bench.conn, bench.ledger, run.id)}
        if PauseCause.WINDOW in causes:
            shut = bench.pace.shut()
            if shut is None:
                lifecycle.lift(
                    bench.conn, bench.ledger, run.id, [PauseCause.WINDOW], by="the window opened"
                )
            elif shut.opens is None:
                return True  # `until` has passed: only a person ends that
        return bool(causes - WAITED_FOR)


def _check_patience(away_seconds: float, error: Exception) -> None:
    if away_seconds <= PATIENCE_SECONDS:
        return
    if isinstance(error, BackfillError):
        raise error
    raise UnreachableError(
        f"the database has been away for {PATIENCE_SECONDS:.0f} s",
        remedy="Everything is kept in it: start the same command again.",
    ) from error


def _leave(bench: Bench | None) -> None:
    """Whatever ended the work: the job lets go of what `setup` took, the connection is closed."""
    if bench is not None:
        try:
            bench.job.teardown()
        finally:
            bench.close()
