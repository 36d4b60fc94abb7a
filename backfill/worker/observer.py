"""What a worker tells after a batch: the checkpoint, and Flower by an event of the task."""

from __future__ import annotations

import time
from contextlib import suppress

from celery import Task
from kombu.exceptions import OperationalError

from backfill.checkpoint import Checkpoint, Snapshot
from backfill.clock import Clock
from backfill.engine.bench import Bench
from backfill.engine.pace import BURST_SECONDS, LATE_SECONDS, LocalLimiter
from backfill.model import BatchInfo, Counts
from backfill.pg import slices
from backfill.pg.slices import Slice
from backfill.watch.batches import LOST, OUTAGE, BatchCounts
from backfill.watch.words import line

#: The checkpoint is written at most so often (waiting for it after each batch cost 9 %): as often
#: as pictures are taken, which are all that is made of it. With it go the counts of batches, of
#: which a process that is killed takes the rest with it.
WRITE_SECONDS = 1.0
#: Flower is told at most so often by each process.
TELL_SECONDS = 3.0


class CheckpointObserver:
    """Writes slices' counts into the checkpoint, and sends `task-progress` events.

    Attributes:
        task: the task that is running; set anew for each.
    """

    def __init__(self, checkpoint: Checkpoint | None) -> None:
        self._checkpoint = checkpoint
        self._pending: dict[int, tuple[int, Counts]] = {}
        self._batches = BatchCounts()
        self._bench: Bench | None = None
        self._written_at = 0.0
        self._told_at = time.monotonic()
        self.task: Task | None = None

    def batch_committed(self, bench: Bench, info: BatchInfo, held: Slice, added: Counts) -> None:
        """Remember the slice's counts; write them if it is time."""
        del added
        self._bench = bench
        self._batches.committed(info.phase, info.seconds)
        self._pending[held.number] = (held.epoch, held.counts)
        if time.monotonic() - self._written_at >= WRITE_SECONDS:
            self.flush()

    def batch_failed(self, bench: Bench, code: str | None) -> None:
        """Count it; it is written with the next batch, or at the end of the task."""
        self._bench = bench
        self._batches.failed(code or LOST)

    def outage(self, bench: Bench) -> None:
        """Count it, too."""
        self._bench = bench
        self._batches.failed(OUTAGE)

    def flush(self) -> None:
        """Write what is pending, rebuilding the run from the ledger when Redis has lost it."""
        bench = self._bench
        if self._checkpoint is None or bench is None:
            return
        self._batches.flush(self._checkpoint, bench.run.id)
        if not self._pending:
            return
        self._written_at = time.monotonic()
        snapshot = self._checkpoint.write(bench.run.id, self._pending)
        if snapshot is None and not self._checkpoint.is_away:
            self._checkpoint.rebuild(
                bench.run.id, slices.all_counts(bench.conn, bench.ledger, bench.run.id)
            )
            snapshot = self._checkpoint.write(bench.run.id, self._pending)
        if not self._checkpoint.is_away:
            self._pending.clear()
        if snapshot is not None and time.monotonic() - self._told_at >= TELL_SECONDS:
            self._told_at = time.monotonic()
            self._tell(bench, snapshot)

    def close(self) -> None:
        """Close the connection to Redis."""
        if self._checkpoint is not None:
            self._checkpoint.close()

    def _tell(self, bench: Bench, snapshot: Snapshot) -> None:
        """Flower shows `result` of a task-progress event while the task runs."""
        if self.task is None:
            return
        total, settled = bench.run.total_rows, snapshot.counts.settled
        told = line(
            bench.run,
            percent=None if total is None else min(99, settled * 100 // max(total, 1)),
            settled=settled,
            total=None if total is None else max(total, settled),
            rows_per_second=snapshot.rows_per_second,
        )
        # Redis may have gone since the write (I4): nobody sees this line then
        with suppress(OperationalError, OSError):
            self.task.send_event("task-progress", retry=False, result=told)


class RunLimiter:
    """A run's token bucket in Redis; a fair share of the rate while Redis is away.

    Args:
        slots: the run's concurrency: without Redis each slot gets its part, with no burst.
    """

    def __init__(
        self, checkpoint: Checkpoint | None, run: str, clock: Clock, *, slots: int
    ) -> None:
        self._checkpoint = checkpoint
        self._run = run
        self._alone = LocalLimiter(clock, share=1.0 / max(1, slots))

    def take(self, rows: float, rows_per_second: float) -> float:
        """Take tokens, if they are there: 0. Else seconds until they may be."""
        if self._checkpoint is not None:
            wait = self._checkpoint.take(
                self._run, rows, rows_per_second, burst=BURST_SECONDS, late=LATE_SECONDS
            )
            if wait is not None:
                self._alone.empty()
                return wait
        return self._alone.take(rows, rows_per_second)

    def shared_by(self, slots: int) -> None:
        """The run's concurrency has changed, or not: without Redis each slot gets its part."""
        self._alone.keep_to(1.0 / max(1, slots))
