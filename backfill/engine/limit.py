"""A run that takes at most so many rows, over all workers, exactly.

Rows are reserved before they are read: what the transform does may not be undone by a rollback
(Call). What is reserved stands in the slice, so a process that dies loses none of it: whoever takes
the slice next goes on with it. It is taken in small parts, and the smaller the less is left, so no
slot keeps what another one could use.

Concurrency rules (I1, I3), each tested:
- Reserving locks the run, then the slice, as everything does that locks both; no batch is open.
- A batch takes from its slice's allowance what it pages, under the slice's lock and epoch. One that
  would page more is rolled back.
- What a slice has left over when its walk ends is free again by that alone: only slices that are
  walked are counted.
- Nothing free does not mean that the limit is reached: what others have reserved may be left over.
  Only when nobody has any left are the slices cut where they are, and no further one is placed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from backfill.engine.bench import Bench
from backfill.engine.faults import LimitedError, NotAllowedError, RetriableError, StaleEpochError
from backfill.model import RunState, SlicePhase
from backfill.pg import allowance
from backfill.pg.connect import transaction
from backfill.pg.failure import Fault, FaultKind
from backfill.pg.ledger import Run, get_run
from backfill.pg.slices import Slice

#: For so many batches is reserved at once: each time costs a commit.
BATCHES = 8
#: A slice that waits for what others may leave over is taken again after this time.
WAIT_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class _Left:
    """What of the limit is not reserved, and what is reserved and not used yet."""

    free: int
    outstanding: int

    @property
    def is_none(self) -> bool:
        return self.free <= 0 and self.outstanding <= 0


def reserve(bench: Bench, held: Slice, *, rows: int) -> None:
    """See that a slice that is walked has an allowance; outside any transaction.

    Args:
        rows: of the next batch.

    Raises:
        LimitedError: nothing is left for it, now or for good; the slice is cut in the latter case.
        StaleEpochError, NotAllowedError: nothing was changed.
    """
    if bench.run.row_limit is None or held.phase is not SlicePhase.WALK:
        return
    if allowance.of_slice(bench.conn, bench.ledger, held):
        return
    with transaction(bench.conn):
        run = get_run(bench.conn, bench.ledger, held.run, lock=True)
        if run.run_state is not RunState.RUNNING:
            raise NotAllowedError(f"the run is {run.state}")
        left = _left(bench, run)
        if left.free > 0:
            share = math.ceil(left.free / bench.options.concurrency)
            granted = allowance.allow(
                bench.conn, bench.ledger, held, rows=min(rows * BATCHES, share, left.free)
            )
        elif left.is_none:
            granted = allowance.cut(
                bench.conn, bench.ledger, held, checks_completion=bench.checks_completion
            )
        else:
            granted = True
        if not granted:
            raise StaleEpochError(f"slice {held.number} is another's")
    if left.free <= 0:
        raise LimitedError(
            "the run's limit is reached" if left.is_none else "what is left is reserved by others",
            seconds=0.0 if left.is_none else WAIT_SECONDS,
        )


def within(bench: Bench, held: Slice, rows: int) -> int:
    """How many rows a batch may page; `held` as the ledger has it now.

    Raises:
        RetriableError: the allowance was used by a batch whose COMMIT we have not heard of.
    """
    if bench.run.row_limit is None or held.phase is not SlicePhase.WALK:
        return rows
    if held.allowance < 1:
        raise _again()
    return min(rows, held.allowance)


def check(bench: Bench, held: Slice, paged: int) -> None:
    """Before the record of a batch: it pages no more than its slice may.

    Raises:
        RetriableError: rows that others have just made ours came on top; nothing may be committed.
    """
    if bench.run.row_limit is not None and paged > held.allowance:
        raise _again()


def may_place(bench: Bench) -> bool:
    """Whether a further slice may be placed; if there never will be one, the run says so."""
    with transaction(bench.conn):
        run = get_run(bench.conn, bench.ledger, bench.run.id, lock=True)
        left = _left(bench, run)
        if left.is_none and run.run_state is RunState.RUNNING:
            allowance.end_frontier(bench.conn, bench.ledger, run.id)
        return left.free > 0


def _left(bench: Bench, run: Run) -> _Left:
    """Inside a transaction that has locked the run."""
    paged, outstanding = allowance.spent(bench.conn, bench.ledger, run.id)
    return _Left(free=(run.row_limit or 0) - paged - outstanding, outstanding=outstanding)


def _again() -> RetriableError:
    told = "more rows than the run's limit leaves to this batch"
    fault = Fault(
        kind=FaultKind.TRANSIENT, sqlstate=None, message=told, summary=told, may_quote=False
    )
    return RetriableError(fault, timed_out=False)
