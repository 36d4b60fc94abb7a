"""Following a run of the demo to its end: what the screen shows, and when a worker is lost."""

from __future__ import annotations

import time
from dataclasses import dataclass

from backfill.checkpoint import Checkpoint
from backfill.errors import BackfillError
from backfill.events import Event
from backfill.local.loss import KILL_SHARE, Loss, held_slices
from backfill.local.screen import Screen, View
from backfill.local.stage import Stage
from backfill.local.traffic import Application
from backfill.model import RunState
from backfill.pg.ledger import EventRecord, events, workers
from backfill.project import Desk, Project
from backfill.watch.progress import WORKER_SECONDS, Progress

#: A run or a worker that does not get on for so long has failed: five times what was seen.
STALL_SECONDS = 90.0
LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A run that has succeeded.

    Attributes:
        deferred: rows that others had locked when the run met them, and that the sweep took.
    """

    progress: Progress
    deferred: int


class Follower:
    """Shows runs, one after the other; see the module."""

    def __init__(
        self,
        stage: Stage,
        screen: Screen,
        project: Project,
        desk: Desk,
        application: Application,
    ) -> None:
        self._stage = stage
        self._screen = screen
        self._project = project
        self._desk = desk
        self._application = application

    def add_workers(self, count: int) -> None:
        """Start workers, and wait until they have said in the ledger that they live.

        Raises:
            BackfillError: one ends instead, or is not ready in time; quotes the logs.
        """
        for _ in range(count):
            self._add_worker()
        deadline = time.monotonic() + STALL_SECONDS
        while len(self._ready()) < len(self._stage.workers):
            if not all(worker.is_running for worker in self._stage.workers):
                raise self._failure("a worker does not start")
            if time.monotonic() > deadline:
                raise self._failure(f"the workers are not ready after {STALL_SECONDS:g} s")
            time.sleep(LOOK_SECONDS)

    def follow(self, run: str, *, kill_within: int | None = None) -> Ended:
        """Show a run until it has succeeded.

        Args:
            kill_within: kill a worker on the way, within a slice of so many rows, start another,
                and tell who takes over.

        Raises:
            BackfillError: it pauses, fails or does not get on; or it ended before a worker could
                be killed. Quotes the logs.
        """
        loss = None if kill_within is None else self._loss(slice_rows=kill_within)
        checkpoint = self._project.checkpoint(self._desk.ledger)
        try:
            with self._screen.watching():
                progress = self._to_the_end(run, checkpoint, loss)
        finally:
            if checkpoint is not None:
                checkpoint.close()
        if loss is not None:
            if not loss.has_fallen:
                raise self._failure("the run ended before a worker could be killed within a slice")
            loss.tell_of_the_rest(run)
        swept = [
            int(event.detail.get("deferred", 0))
            for event in events(self._desk.conn, self._desk.ledger, run)
            if event.name == Event.RUN_SWEEPING
        ]
        return Ended(progress=progress, deferred=sum(swept))

    def _to_the_end(self, run: str, checkpoint: Checkpoint | None, loss: Loss | None) -> Progress:
        seen_event = settled = 0
        moved_at = time.monotonic()
        while True:
            progress = self._project.progress(self._desk, run, checkpoint=checkpoint)
            for event in events(self._desk.conn, self._desk.ledger, run, after=seen_event):
                self._tell(event)
                seen_event = event.id
            if loss is not None:
                self._lose(progress, loss)
            self._show(progress)
            if progress.run.run_state is RunState.SUCCEEDED:
                return progress
            if progress.run.finished_at is not None or progress.pauses:
                raise self._failure(
                    f"run {run} is {progress.run.state}:"
                    f" {progress.run.failure or progress.limited_by}"
                )
            if progress.counts.settled != settled:
                settled, moved_at = progress.counts.settled, time.monotonic()
            if time.monotonic() - moved_at > STALL_SECONDS:
                raise self._failure(f"run {run} has not got on for {STALL_SECONDS:g} s")
            time.sleep(LOOK_SECONDS)

    def _loss(self, *, slice_rows: int) -> Loss:
        return Loss(
            self._desk,
            self._screen,
            self._stage.workers,
            slice_rows=slice_rows,
            lease_seconds=self._project.settings.engine.lease_seconds,
        )

    def _lose(self, progress: Progress, loss: Loss) -> None:
        if loss.has_fallen:
            loss.look(progress.run.id)
        elif (progress.share or 0.0) >= KILL_SHARE and loss.kill_one(progress.run.id):
            self._add_worker()

    # -- what is shown ----------------------------------------------------------------------

    def _show(self, progress: Progress) -> None:
        ready = self._ready()
        held = [one.process for one in held_slices(self._desk, progress.run.id)]
        doing = []
        for worker in self._stage.workers:
            if worker.is_killed:
                what = "killed"
            elif worker.name not in ready:
                what = "starting"
            else:
                slices = sum(worker.runs(process) for process in held)
                what = "idle" if not slices else _counted(slices, "slice")
            doing.append((worker.name, what))
        self._screen.show(View(progress=progress, workers=doing, traffic=self._application.traffic))

    def _tell(self, event: EventRecord) -> None:
        """Say what the ledger says, where people want to know."""
        detail = event.detail
        match event.name:
            case Event.RUN_BEGUN:
                rows = detail.get("total_rows")
                of = "" if rows is None else f" {rows:,} rows are to do,"
                horizon = "/".join(detail.get("horizon") or ())
                self._screen.event(f"the run has begun:{of} up to key {horizon}")
            case Event.RUN_SWEEPING if detail.get("deferred"):
                self._screen.event(
                    f"every slice is walked; {detail['deferred']:,} rows that the application had"
                    " locked are left to sweep"
                )
            case Event.RUN_REWALKED:
                self._screen.event("the check found rows to do: their slices are walked again")
            case Event.BACKEND_TERMINATED:
                self._screen.event("the transaction of a lost holder was ended")
            case _:
                pass

    # -- workers ----------------------------------------------------------------------------

    def _add_worker(self) -> None:
        worker = self._stage.add_worker()
        self._screen.command(f"backfill worker --name {worker.name}@%h &")

    def _ready(self) -> set[str]:
        """Names of the workers that the ledger has seen lately."""
        return {
            seen.name.partition("@")[0]
            for seen in workers(self._desk.conn, self._desk.ledger, within_seconds=WORKER_SECONDS)
        }

    def _failure(self, what: str) -> BackfillError:
        return BackfillError(what, remedy=f"The workers' logs end with:\n{self._stage.log_tails()}")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
