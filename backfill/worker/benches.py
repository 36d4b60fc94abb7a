"""The workbenches of a worker process, kept between the tasks of a run.

A workbench is made by connecting and by the job's `setup`, which may take its time, so it waits for
the run's next task; but its connection is one of few. So it goes
- when a task of ours finds that the run has ended (tasks.py),
- when it has waited for IDLE_SECONDS: the run ended or is paused, or others do its work,
- when its thread has MOST_KEPT later ones,
- when the process ends in good order (wiring.py).

Concurrency rules: each thread has its own (Celery's pool may be of threads), since a connection
serves one at a time. The tidier, a thread, and the end of the process take those of all threads.
Whoever takes one out of `_kept`, under the lock, closes it, without: nothing waits for a `teardown`
or a server. The tidier takes none that is in use.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

import psycopg
import structlog

from backfill.clock import SystemClock
from backfill.engine import lifecycle
from backfill.engine.bench import Bench
from backfill.engine.changed import fixed_changes, remedies
from backfill.errors import BackfillError, RefusedError, UnreachableError
from backfill.events import Event
from backfill.model import PauseCause
from backfill.pg.ledger import Run, get_run
from backfill.project import Desk, Project
from backfill.worker import stopping
from backfill.worker.observer import CheckpointObserver, RunLimiter

log = structlog.get_logger("backfill")

#: So many are kept by a thread, each with a connection or two; the least recently used goes first.
#: A process that works on more runs than that by turns makes one for nearly each task.
MOST_KEPT = 16
#: One that no task has used for so long is closed.
IDLE_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A workbench with what belongs to it."""

    bench: Bench
    observer: CheckpointObserver

    def close(self) -> None:
        """Close all connections, also when the job's `teardown` raises something."""
        self.observer.close()
        try:
            self.bench.job.teardown()
        finally:
            self.bench.close()


@dataclass(slots=True)
class _Place:
    """Where one is kept; `idle_since`, on the monotonic clock, is None while a task uses it."""

    kept: Kept
    idle_since: float | None = None


class PausedError(RefusedError):
    """This worker cannot work on the run, which has been paused for that; the message says why."""


class Benches:
    """See the module."""

    def __init__(self, project: Project, *, idle_seconds: float = IDLE_SECONDS) -> None:
        self._project = project
        self._idle_seconds = idle_seconds
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, str], _Place] = OrderedDict()  # by thread and run
        self._tidier: threading.Thread | None = None
        self._closing = threading.Event()

    def _let_go_if_forked(self) -> None:
        """The parent's connections are not ours (shared ones gave wrong answers)."""
        if self._process != os.getpid():
            self._begin()

    def close(self) -> None:
        """Close those of all threads, whose work must have ended."""
        self._let_go_if_forked()
        with self._lock:
            kept, self._kept = self._kept, OrderedDict()
            self._closing.set()
        for (_, run), place in kept.items():
            _close(run, place.kept)

    def drop(self, run: str) -> None:
        """Close a run's workbench; the next task makes a new one."""
        self._let_go_if_forked()
        with self._lock:
            place = self._kept.pop((threading.get_ident(), run), None)
        if place is not None:
            _close(run, place.kept)

    def rest(self, run: str) -> None:
        """A task has ended: its workbench, if it is still kept, waits for the next one."""
        self._let_go_if_forked()
        with self._lock:
            place = self._kept.get((threading.get_ident(), run))
            if place is not None:
                place.idle_since = time.monotonic()

    def get(self, run: str, *, database: str, ledger: str) -> Kept:
        """The run's workbench: the kept one if the run is as it was, else a new one.

        Whoever gets one says `rest` or `drop` when it is done.

        Raises:
            RefusedError: the message is not for this ledger, or the run has ended.
            PausedError: the job has changed, or cannot be worked on; the run is paused for it.
            UnreachableError: the database does not answer.
        """
        self._let_go_if_forked()
        ours = (threading.get_ident(), run)
        with self._lock:
            place = self._kept.get(ours)
            if place is not None:
                place.idle_since = None
                self._kept.move_to_end(ours)
        if place is not None and self._is_current(place.kept):
            return place.kept
        self.drop(run)
        desk = self._project.open(database)
        try:
            kept = self._make(desk, run, ledger=ledger)
        finally:
            desk.conn.close()  # the bench has its own
        with self._lock:
            self._kept[ours] = _Place(kept)
            of_thread = [other for thread, other in self._kept if thread == ours[0]]
            if self._tidier is None:
                self._tidier = threading.Thread(
                    target=self._tidy, name="backfill-benches", daemon=True
                )
                self._tidier.start()
        for other in of_thread[:-MOST_KEPT]:
            self.drop(other)
        return kept

    def _tidy(self) -> None:
        """Close what nobody uses, until there is none."""
        while True:
            self._closing.wait(self._idle_seconds / 4)
            with self._lock:
                if not self._kept:
                    self._tidier = None
                    return
                since = time.monotonic() - self._idle_seconds
                idle = [
                    (of, place)
                    for of, place in self._kept.items()
                    if place.idle_since is not None and place.idle_since <= since
                ]
                for of, _ in idle:
                    del self._kept[of]
            for (_, run), place in idle:
                _close(run, place.kept)

    @staticmethod
    def _is_current(kept: Kept) -> bool:
        """True when it serves; changed options are taken over in place."""
        bench = kept.bench
        if bench.conn.closed or bench.reader.closed:
            return False
        found = get_run(bench.conn, bench.ledger, bench.run.id)
        if found.fingerprint != bench.run.fingerprint:
            return False
        try:
            bench.tune(found.options, speed=found.speed)
        except BackfillError:  # a newer version's; making a new one says so
            return False
        return True

    def _make(self, desk: Desk, run: str, *, ledger: str) -> Kept:
        if desk.ledger.id != ledger:
            raise RefusedError(
                f"the message is for ledger {ledger}, this worker's is {desk.ledger.id}"
            )
        record = get_run(desk.conn, desk.ledger, run)
        if not record.run_state.is_live:
            raise RefusedError(f"the run is {record.state}")
        record.require_code()  # not a reason to pause it: newer workers go on
        try:
            declaration = self._project.declaration(record.job)
            if declaration.fingerprint() == record.fingerprint:
                checkpoint = self._project.checkpoint(desk.ledger)
                observer = CheckpointObserver(checkpoint)
                clock = SystemClock()
                slots = int(record.options.get("concurrency", 1))
                return Kept(
                    observer=observer,
                    bench=self._project.bench(
                        desk,
                        record,
                        declaration,
                        clock=clock,
                        limiter=RunLimiter(checkpoint, run, clock, slots=slots),
                        observer=observer,
                        stopping=stopping.is_requested,
                    ),
                )
        except UnreachableError:
            raise
        except BackfillError as error:
            raise _paused(
                desk,
                record,
                PauseCause.ERROR,
                # in one line each: an error that shows a right form has several
                reason=" ".join(f"a worker cannot work on it: {error.message}".split()),
                ends=" ".join(
                    f"{error.remedy.rstrip('.') or 'mend it'}; then `backfill resume {run}`".split()
                ),
            ) from error
        other = fixed_changes(record, declaration)
        raise _paused(
            desk,
            record,
            PauseCause.CHANGED_JOB,
            reason=f"the declaration of job {record.job} differs from the one that the run began"
            f" with{f': it has another {other}' if other else ''}",
            ends=", or ".join(remedies(record, declaration)),
        )


def _close(run: str, kept: Kept) -> None:
    try:
        kept.close()
    except psycopg.Error:
        log.debug(Event.DATABASE_UNREACHABLE, run=run)
    except Exception as error:  # noqa: BLE001 - the job's own `teardown`: nothing waits for it
        log.warning(Event.HOOK_FAILED, run=run, hook="teardown", error=type(error).__name__)


def _paused(desk: Desk, judged: Run, cause: PauseCause, *, reason: str, ends: str) -> RefusedError:
    """Pause the run as it was judged; somebody may have accepted a change in the meantime."""
    lifecycle.pause(
        desk.conn,
        desk.ledger,
        judged.id,
        cause,
        reason=reason,
        ends=ends,
        by="worker",
        judged=judged.fingerprint,
    )
    if get_run(desk.conn, desk.ledger, judged.id).fingerprint != judged.fingerprint:
        return RefusedError("its declaration has been changed just now; the next message works")
    return PausedError(f"paused: {reason}", remedy=ends)
