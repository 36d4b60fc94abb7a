"""The loop of a worker: take a slice, work its batches, go on to the next, until something ends it.

Everything that this loop remembers may be lost: the ledger says where each slice is. Between two
batches no transaction is open, and only there the loop sleeps, renews leases, and looks whether it
should stop (I5).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import psycopg
import structlog
import tenacity

from backfill.engine import batch, lifecycle, limit, optimistic
from backfill.engine.begin import begin
from backfill.engine.bench import Bench
from backfill.engine.ending import after_run_called
from backfill.engine.faults import (
    Interruption,
    RetriableError,
    RowsRefusedError,
    StopError,
)
from backfill.engine.frontier import place_next
from backfill.engine.hooks import call_hook
from backfill.engine.live import obey
from backfill.engine.pausing import (
    pause_for_error,
    pause_for_lapses,
    pause_for_window,
    pause_over_budget,
    pause_unless_transient,
)
from backfill.engine.report import Ended, Report
from backfill.engine.returning import Returned, interrupted, log_failure, unexpected
from backfill.engine.sizing import Resized
from backfill.engine.standby import tell_if_unconfirmed
from backfill.engine.stuck import fail_if_stuck
from backfill.engine.turn import next_turn
from backfill.engine.verify import verify
from backfill.events import Event
from backfill.model import BatchInfo, RunState, SlicePhase
from backfill.pg import freeing, slices
from backfill.pg.connect import server_time
from backfill.pg.ledger import get_run
from backfill.pg.slices import NoRoomError, Slice, SlotTakenError

log = structlog.get_logger("backfill")

#: A batch is tried so often in a row; then its slice is given back and waits.
BATCH_ATTEMPTS = 4
#: A slice whose deferred rows are all locked by others is swept again after this time.
SWEEP_WAIT_SECONDS = 0.25
#: A worker without a slice looks again for so long, so often; then its slot is empty.
IDLE_PATIENCE_SECONDS = 1.0
IDLE_POLL_SECONDS = 0.05


def work(bench: Bench, *, slot: int, budget_seconds: float | None = None) -> Report:
    """Work in a slot of the run until the budget is used up or nothing can be done now.

    Args:
        slot: 0 ≤ slot < concurrency; doubled messages for a slot find it taken.
        budget_seconds: None: no limit.
    """
    report = Report()
    started = bench.clock.monotonic()

    def is_over() -> bool:
        if bench.stopping():
            report.ended = Ended.STOPPED
            return True
        if budget_seconds is not None and bench.clock.monotonic() - started >= budget_seconds:
            report.ended = Ended.BUDGET
            return True
        ended = obey(bench, slot=slot)
        if ended is not None:
            report.ended = ended
        return ended is not None

    try:
        _until_it_ends(bench, slot, report, is_over)
    except StopError as error:
        pause_for_error(bench, error.reason)
        report.ended = Ended.NOT_WORKING
    except psycopg.Error as error:
        pause_unless_transient(bench, error)
        report.ended = Ended.NOT_WORKING
    report.state = str(get_run(bench.conn, bench.ledger, bench.run.id).run_state)
    if (
        report.ended is Ended.NOT_WORKING
        and report.state == RunState.QUEUED
        and budget_seconds is not None
    ):
        report.ended = Ended.BUDGET  # older writers are still waited for
    return report


def _until_it_ends(bench: Bench, slot: int, report: Report, is_over: Callable[[], bool]) -> None:
    """Slice after slice; an idle slot waits a little, because the next phase has work for all."""
    idle_since: float | None = None
    while not is_over():
        ended = _take_and_work(bench, slot, report, is_over)
        now = bench.clock.monotonic()
        if ended is None:
            idle_since = None
            continue
        idle_since = now if idle_since is None else idle_since
        if ended not in {Ended.IDLE, Ended.NO_ROOM} or now - idle_since >= IDLE_PATIENCE_SECONDS:
            report.ended = ended
            return
        bench.clock.sleep(IDLE_POLL_SECONDS)


def _take_and_work(
    bench: Bench, slot: int, report: Report, is_over: Callable[[], bool]
) -> Ended | None:
    """Bring the run one step on: begin it, work a slice, or move its state; None: there is more."""
    if not _window_is_open(bench):
        return Ended.NOT_WORKING
    run = begin(bench)
    if bench.run.total_rows is None:  # it is known from the beginning of the run on
        bench.run = replace(bench.run, total_rows=run.total_rows)
    state = run.run_state
    if not state.is_working:
        return Ended.NOT_WORKING
    try:
        held = _take(bench, state, slot)
    except SlotTakenError:
        return Ended.SLOT_TAKEN
    except NoRoomError:
        return Ended.NO_ROOM
    if held is not None:
        report.slices += 1
        _work_slice(bench, held, report, is_over)
        return None
    with after_run_called(bench, state) as told:
        after = lifecycle.advance(
            bench.conn, bench.ledger, bench.run.id, by=bench.holder, may_succeed=told
        )
    if after is not state:
        return None
    return Ended.IDLE


def _window_is_open(bench: Bench) -> bool:
    """By the database's clock, as the reconciler sees it: two that differ would pull it about."""
    if bench.pace.keeps_hours:
        bench.clock.hear(server_time(bench.conn))
    shut = bench.pace.shut()
    if shut is None:
        return True
    pause_for_window(bench, shut)
    return False


def _take(bench: Bench, state: RunState, slot: int) -> Slice | None:
    phase = {
        RunState.RUNNING: SlicePhase.WALK,
        RunState.SWEEPING: SlicePhase.SWEEP,
        RunState.VERIFYING: SlicePhase.VERIFY,
    }[state]
    freed, _ = freeing.free_lapsed(bench.conn, bench.ledger, bench.run.id, by=bench.holder)
    pause_for_lapses(bench.conn, bench.ledger, freed, by=bench.holder)
    with slices.room(bench.conn, bench.ledger, bench.max_slots):
        held = slices.claim(
            bench.conn,
            bench.ledger,
            bench.run.id,
            phase,
            holder=bench.holder,
            slot=slot,
            lease_seconds=bench.settings.lease_seconds,
        )
    if held is None and state is RunState.RUNNING:
        try:
            held = place_next(bench, slot=slot)
        except psycopg.errors.LockNotAvailable as error:  # the table is locked: look again later
            log.warning(Event.SLICE_NOT_PLACED, run=bench.run.id, error=type(error).__name__)
        if held is not None:
            log.debug(Event.SLICE_PLACED, run=held.run, slice=held.number)
    if held is not None:
        log.debug(Event.SLICE_TAKEN, run=held.run, slice=held.number, epoch=held.epoch, slot=slot)
    return held


def _work_slice(bench: Bench, held: Slice, report: Report, is_over: Callable[[], bool]) -> None:
    """Work a slice until it is done in its phase, or something ends it; then give it back."""
    bench.halving.clear()
    bench.memory.forget()
    back, committed = Returned(why="phase done"), report.batches

    def attempts() -> int:
        return held.attempts if report.batches == committed else 0

    try:
        if held.phase is SlicePhase.VERIFY:
            verdict = verify(bench, held)
            if verdict.agrees:
                log.info(
                    Event.SLICE_VERIFIED,
                    run=held.run,
                    slice=held.number,
                    remaining=verdict.remaining,
                    left=verdict.left,
                )
        else:
            wait_seconds = _batches(bench, held, report, is_over)
            back = replace(back, wait_seconds=wait_seconds)
    except Interruption as error:
        back = interrupted(bench, held, error, attempts=attempts())
    except BaseException as error:
        back = unexpected(bench, held, error, attempts=attempts())
        raise
    finally:
        # whatever happens here, also a Ctrl-C: the slice goes back, or its lease runs out
        with suppress(psycopg.Error):
            slices.release(
                bench.conn,
                bench.ledger,
                held,
                wait_seconds=back.wait_seconds,
                failed=back.failed,
                was_outage=back.was_outage,
            )
    log.debug(Event.SLICE_RETURNED, run=held.run, slice=held.number, why=back.why)


def _batches(bench: Bench, held: Slice, report: Report, is_over: Callable[[], bool]) -> float:
    """Batch after batch, until the phase is done or something ends it; returns seconds to wait."""
    missed, since = 0, bench.clock.monotonic()
    while not is_over():
        done = _next_batch(bench, held, is_over)
        if done is None:
            return 0.0
        held = done.held
        report.batches += 1
        report.counts += done.added
        _tell(bench, done)
        tell_if_unconfirmed(bench, done.seconds)
        if done.refused and pause_over_budget(bench):
            return 0.0
        if done.at_end:
            return 0.0
        if held.phase is SlicePhase.SWEEP:
            # once round without success: what is left is locked by others; come back later
            missed = 0 if done.added.settled else missed + done.missed
            if missed >= held.counts.deferred:
                tried_seconds = bench.clock.monotonic() - since
                fail_if_stuck(bench, held, tried_seconds=tried_seconds)
                return SWEEP_WAIT_SECONDS
    return 0.0


def _next_batch(bench: Bench, held: Slice, is_over: Callable[[], bool]) -> batch.Batch | None:
    """The next committed batch; None when something ended the wait for it (see turn.py)."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(RetriableError),
        stop=tenacity.stop_after_attempt(BATCH_ATTEMPTS),
        wait=tenacity.wait_random_exponential(multiplier=0.05, max=1.0),
        sleep=bench.clock.sleep,
        reraise=True,
    )
    while True:
        rows = next_turn(bench, held, is_over)
        if rows is None:
            return None
        try:
            done = retrying(_attempt, bench, held, bench.halving.limit(rows))
        except RowsRefusedError as refused:
            bench.pace.after_batch(rows, 0)
            bench.halving.refused(refused.rows)
            continue
        except Interruption:
            bench.pace.after_batch(rows, 0)
            raise
        bench.pace.after_batch(rows, done.taken, seconds=done.busy_seconds)
        bench.halving.settled()
        if not bench.halving.is_active:
            bench.memory.forget()
            if not done.was_sweep:  # a sweep waits for single rows: it says nothing about sizes
                _resized(
                    held,
                    bench.sizer.committed(
                        asked=done.asked,
                        taken=done.taken,
                        seconds=done.seconds,
                        wal_bytes=done.wal_bytes,
                    ),
                )
        return done


def _resized(held: Slice, change: Resized | None) -> None:
    """The reason for each change is in the log; small ones at a level that few ask for."""
    if change is not None:
        log.log(
            logging.INFO if change.is_worth_telling else logging.DEBUG,
            Event.BATCH_RESIZED,
            run=held.run,
            slice=held.number,
            rows=change.rows,
            was=change.was,
            reason=change.reason,
        )


def _attempt(bench: Bench, held: Slice, rows: int) -> batch.Batch:
    try:
        limit.reserve(bench, held, rows=rows)
        execute = batch.execute if bench.reading is None else optimistic.execute
        return execute(bench, held, rows=min(rows, bench.sizer.rows), probe=bench.probe)
    except (RetriableError, RowsRefusedError) as error:
        if isinstance(error, RetriableError):
            bench.observer.batch_failed(bench, error.fault.sqlstate)
            if error.timed_out:
                _resized(held, bench.sizer.timed_out())
        log_failure(held, str(error))
        bench.reconnect_if_closed()
        raise


def _tell(bench: Bench, done: batch.Batch) -> None:
    """After the commit: the log's canonical line, the checkpoint, the job's own hook."""
    held = done.held
    bench.probe("before the checkpoint")
    log.info(
        Event.BATCH_COMMITTED,
        run=held.run,
        slice=held.number,
        epoch=held.epoch,
        phase=str(held.phase),
        seconds=round(done.seconds, 4),
        rows_per_second=round(done.taken / max(done.seconds, 1e-6)),
        **{name: value for name, value in done.added.as_dict().items() if value},
    )
    if done.at_end:
        ended = Event.SLICE_SWEPT if done.was_sweep else Event.SLICE_WALKED
        log.info(ended, run=held.run, slice=held.number, **held.counts.as_dict())
    info = BatchInfo(
        run=held.run,
        slice=held.number,
        epoch=held.epoch,
        counts=done.added,
        seconds=done.seconds,
        phase=SlicePhase.SWEEP if done.was_sweep else SlicePhase.WALK,
    )
    bench.observer.batch_committed(bench, info, held, done.added)
    call_hook(bench, "after_batch", lambda: bench.job.after_batch(info))
