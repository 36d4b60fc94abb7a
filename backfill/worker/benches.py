"""The workbenches of a worker process, kept between the tasks of a run.

Each thread has its own (Celery's pool may be of threads): a connection serves one at a time.
"""

from __future__ import annotations

import os
import threading
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

#: So many are kept in a process; the least recently used goes first.
MOST_KEPT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A workbench with what belongs to it."""

    desk: Desk
    bench: Bench
    observer: CheckpointObserver

    def close(self) -> None:
        """Close all connections, also when the job's `teardown` raises something."""
        self.observer.close()
        try:
            self.bench.job.teardown()
        finally:
            self.bench.close()
            self.desk.conn.close()


class PausedError(RefusedError):
    """This worker cannot work on the run, which has been paused for that; the message says why."""


class Benches(threading.local):
    """See the module."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._process = os.getpid()

    def drop(self, run: str) -> None:
        """Close a run's workbench; the next task makes a new one."""
        kept = self._kept.pop(run, None)
        if kept is None:
            return
        try:
            kept.close()
        except psycopg.Error:
            log.debug(Event.DATABASE_UNREACHABLE, run=run)
        except Exception as error:  # noqa: BLE001 - the job's own `teardown`: nothing waits for it
            log.warning(Event.HOOK_FAILED, run=run, hook="teardown", error=type(error).__name__)

    def get(self, run: str, *, database: str, ledger: str) -> Kept:
        """The run's workbench: the kept one if the run is as it was, else a new one.

        Raises:
            RefusedError: the message is not for this ledger, or the run has ended.
            PausedError: the job has changed, or cannot be worked on; the run is paused for it.
            UnreachableError: the database does not answer.
        """
        if self._process != os.getpid():
            # forked: the parent's connections are not ours (shared ones gave wrong answers)
            self._kept.clear()
            self._process = os.getpid()
        kept = self._kept.get(run)
        if kept is not None and self._is_current(kept):
            self._kept.move_to_end(run)
            return kept
        self.drop(run)
        desk = self._project.open(database)
        try:
            kept = self._make(desk, run, ledger=ledger)
        except BaseException:
            desk.conn.close()
            raise
        self._kept[run] = kept
        while len(self._kept) > MOST_KEPT:
            self.drop(next(iter(self._kept)))
        return kept

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
                    desk=desk,
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
