"""One batch: one transaction that takes rows, transforms them, writes them and says so.

Invariants kept here:
- I1: writes, cursor, counts, deferred and quarantined keys commit together; under an old epoch, or
  in a state that does not allow work, nothing is written.
- I2: every key paged gets exactly one outcome.
- I5: at most one batch a transaction; rows are locked for a bounded time; nothing in here sleeps or
  talks to anything but PostgreSQL.

Where a process can die, and what is then so (tests/engine/test_crash_points.py kills it at each):

    before BEGIN         nothing happened; who stands still here comes back under an old epoch
    before the page      the same
    after the write      the transaction rolls back: nothing happened
    before COMMIT        the same
    after COMMIT         everything happened; the cursor says so, whether or not we heard the reply
    before the checkpoint   the same; the checkpoint is written by the next batch, or rebuilt
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import psycopg
from psycopg import sql

from backfill.engine import limit
from backfill.engine.bench import Bench, Probe, no_probe
from backfill.engine.faults import (
    NotAllowedError,
    RetriableError,
    RowsRefusedError,
    StaleEpochError,
    StopError,
)
from backfill.engine.lines import Written
from backfill.engine.page import Page, page_bounds, sweep_page, walk_page
from backfill.engine.removal import NotMovedError
from backfill.engine.telling import in_a_reason, to_its_owner
from backfill.engine.transform import Outcome, Refusal
from backfill.engine.write import Values
from backfill.events import Event
from backfill.job.options import MIN_TIMEOUT_SECONDS
from backfill.model import Counts, Key, RunState, SlicePhase
from backfill.pg import quarantine, slices
from backfill.pg.connect import application_name, transaction
from backfill.pg.failure import Fault, FaultKind, classify
from backfill.pg.ledger import add_event
from backfill.pg.slices import Slice

#: The server's deadlock_timeout is 1 s unless changed. A batch that is to wait for a lock at the
#: end of its life must give up before another session's deadlock check blames that session.
DEADLOCK_TIMEOUT_SECONDS = 1.0
#: Of what is left after the lock's time-out, this share is for transforming, the rest for writing.
TRANSFORM_SHARE = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A committed batch.

    Attributes:
        held: the slice after it.
        asked: rows that it might take.
        added: what it added to the counts.
        taken: rows that were locked.
        refused: rows that went into quarantine.
        missed: deferred rows that are still not to be had.
        seconds: from BEGIN, or the reading without locks before it, to the answer to COMMIT.
        busy_seconds: of these, those in which the database worked for it or rows were locked.
        wal_bytes: what the server wrote between its first and its last statement, other sessions'
            share included; None: not known.
        at_end: the slice has nothing more to do in this phase.
        was_sweep: its rows were deferred ones.
    """

    held: Slice
    asked: int
    added: Counts
    taken: int
    refused: int
    missed: int
    seconds: float
    busy_seconds: float
    wal_bytes: int | None
    at_end: bool
    was_sweep: bool


def execute(bench: Bench, held: Slice, *, rows: int, probe: Probe = no_probe) -> Batch:
    """Do the next batch of a slice, of at most `rows` rows.

    Raises:
        Interruption: one of faults.py; nothing was written, unless a RetriableError came from
            COMMIT, whose effect the next batch finds in the ledger.
    """
    started = bench.clock.monotonic()
    step = Step(bench)
    probe("before BEGIN")
    try:
        with transaction(
            bench.conn,
            bench.limits,
            name=application_name(held.run, held.number, held.epoch),
            run=held.run,
            in_batch=True,
            on_unconfirmed=bench.hear_unconfirmed,
        ):
            now = hold(bench, held)
            rows = limit.within(bench, now, rows)
            probe("before the page")
            page, outcomes = take(bench, now, rows, step)
            step.begin("write")
            written, refusals = write_page(bench, now, page, outcomes, step)
            step.begin("record")
            probe("after the write")
            batch = record(bench, now, page, written, refusals)
            probe("before COMMIT")
            step.begin("commit")
        probe("after COMMIT")
    except psycopg.Error as error:
        step.remember(bench)
        raise interruption(bench, step, error) from error
    except RowsRefusedError:
        step.remember(bench)
        raise
    seconds = bench.clock.monotonic() - started
    return replace(batch, asked=rows, seconds=seconds, busy_seconds=seconds)


def take(bench: Bench, now: Slice, rows: int, step: Step) -> tuple[Page, list[Outcome] | None]:
    """In a batch's transaction: lock the next rows and transform them.

    Returns:
        The page, cut to the rows that time sufficed for, and their outcomes; None instead of these
        when PostgreSQL computes.
    """
    page = (walk_page if now.phase is SlicePhase.WALK else sweep_page)(bench, now, rows)
    step.page = page
    step.outcomes = outcomes = _transform(bench, page, step.opened)
    return (page if outcomes is None else page.cut(bench, now, len(outcomes))), outcomes


class Step:
    """Which statement is under way, and since when: an error's meaning depends on both.

    Attributes:
        opened: when the step "page" began, and so before any row was locked.
        is_pressed: the write may wait for locks for less than the run's lock time-out.
    """

    def __init__(self, bench: Bench) -> None:
        self._clock = bench.clock
        self.page: Page | None = None
        self.outcomes: list[Outcome] | None = None
        self.begin("page")

    def begin(self, name: str) -> None:
        self.name = name
        self.since = self._clock.monotonic()
        if name == "page":
            self.opened, self.is_pressed = self.since, False

    def bound_waits(self, bench: Bench) -> None:
        """Before a write: whatever the batch's age, its wait for a lock ends in time (I5).

        The page, one slow row or the whole of `transform_batch` may have used up the time that the
        run's time-out leaves. Whoever waits for one of our rows began after `opened`, so no
        deadlock check comes before DEADLOCK_TIMEOUT_SECONDS from there. Young batches send nothing.
        """
        left = DEADLOCK_TIMEOUT_SECONDS - (self._clock.monotonic() - self.opened)
        if left >= bench.options.lock_timeout_seconds:
            return
        milliseconds = int(max(left, MIN_TIMEOUT_SECONDS) * 1000)  # 0 would switch it off
        bench.conn.execute(
            sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(f"{milliseconds}ms"))
        )
        self.is_pressed = True

    def remember(self, bench: Bench) -> None:
        """Keep what was computed: the batches that repeat these rows do not compute it again."""
        if self.page is not None and self.outcomes is not None:
            bench.memory.keep(self.page.keys, self.page.rows, self.outcomes)


def hold(bench: Bench, held: Slice, *, may_be_paused: bool = False) -> Slice:
    """Lock the slice's row, if it is ours and the run works.

    Raises:
        StaleEpochError, NotAllowedError: it is not so.
    """
    found = slices.lock(bench.conn, bench.ledger, held, reads_wal=bench.reads_wal)
    return allowed(held, found, may_be_paused=may_be_paused)


def allowed(held: Slice, found: tuple[Slice, str] | None, *, may_be_paused: bool = False) -> Slice:
    """The slice as it was found in the ledger, if work on it is allowed; raises as `hold`."""
    if found is None:
        raise StaleEpochError(f"slice {held.number} is held under a newer epoch than {held.epoch}")
    now, state = found
    right = {
        SlicePhase.WALK: RunState.RUNNING,
        SlicePhase.SWEEP: RunState.SWEEPING,
    }.get(now.phase)
    if state != right and not (may_be_paused and state == RunState.PAUSED):
        raise NotAllowedError(f"the run is {state}")
    return now


def _transform(bench: Bench, page: Page, started: float) -> list[Outcome] | None:
    """Outcomes for the page's first rows; None when PostgreSQL computes."""
    if bench.transform is None:
        return None
    if not page.rows:
        return []
    room = DEADLOCK_TIMEOUT_SECONDS - bench.options.lock_timeout_seconds
    return bench.transform(
        page.keys, page.rows, bench.memory, deadline=started + room * TRANSFORM_SHARE
    )


Refused = list[tuple[Key, str | None, str]]


def _sort_out(
    keys: Sequence[Key], outcomes: Sequence[Outcome]
) -> tuple[list[tuple[Key, Sequence[Values]]], Refused]:
    """What is to be written, and what is refused; the usual page is all to be written."""
    if set(map(type, outcomes)) == {list}:
        return list(zip(keys, outcomes, strict=False)), []  # type: ignore[arg-type]  # all lists
    values: list[tuple[Key, Sequence[Values]]] = []
    refused: Refused = []
    for key, outcome in zip(keys, outcomes, strict=False):
        if isinstance(outcome, Refusal):
            refused.append((key, outcome.sqlstate, outcome.message))
        elif outcome is not None:
            values.append((key, outcome))
    return values, refused


def write_page(
    bench: Bench, now: Slice, page: Page, outcomes: list[Outcome] | None, step: Step
) -> tuple[Written, Refused]:
    """Write the page; the rows that cannot be written come back with the reason.

    A page of one row is written under a savepoint: what PostgreSQL refuses then is that row.
    """
    values, refused = _sort_out(page.keys, outcomes or ())
    meant = None if outcomes is None else values
    if page.taken != 1:
        try:
            written = _write(bench, now, page, step, meant)
        except NotMovedError as error:
            raise RowsRefusedError(page.taken, str(error)) from error
    else:
        bench.conn.execute("SAVEPOINT one_row")
        try:
            written = _write(bench, now, page, step, meant)
        except NotMovedError:
            bench.conn.execute("ROLLBACK TO SAVEPOINT one_row")
            written = Written(rows=0, keys=0, missing=1)
        except psycopg.Error as error:
            fault = classify(error, writing=True)
            if fault.kind is not FaultKind.ROW:
                raise
            bench.conn.execute("ROLLBACK TO SAVEPOINT one_row")
            written = Written(rows=0, keys=0, missing=0)
            refused.append((page.keys[0], fault.sqlstate, to_its_owner(fault, bench.secrets)))
    if written.unfit:
        hidden = bench.secrets.hidden
        refused += [(key, None, hidden(message)) for key, message in written.unfit]
    return written, refused


def _write(
    bench: Bench,
    now: Slice,
    page: Page,
    step: Step,
    values: Sequence[tuple[Key, Sequence[Values]]] | None,
) -> Written:
    """Write these values, or what PostgreSQL computes; and delete from the source what was moved.

    Raises:
        NotMovedError: not everything was; the transaction has to be rolled back.
    """
    step.bound_waits(bench)
    if values is not None:
        written = bench.writer.write_values(bench.conn, bench.texts, values)
    elif page.is_whole:
        after, bounds = page_bounds(bench, now, page)
        written = bench.writer.write_range(bench.conn, page.taken, after=after, bounds=bounds)
    else:
        written = bench.writer.write_keys(bench.conn, page.keys)
    if bench.removal is None:
        return written
    unfit = {key for key, _ in written.unfit}
    moved = [line for line in values or () if line[0] not in unfit]
    step.bound_waits(bench)
    bench.removal.remove(
        bench.conn,
        page.keys if values is None else [key for key, _ in moved],
        inserted=written.rows,
        meant=page.taken if values is None else sum(len(several) for _, several in moved),
    )
    return written


def record(
    bench: Bench,
    now: Slice,
    page: Page,
    written: Written,
    refused: Refused,
) -> Batch:
    """Write into the ledger what became of the page; `hold` has locked the slice's row."""
    skips = bench.writer.skips_conflicts
    outcome = Counts(
        written=written.keys,
        skipped=written.missing if skips else 0,
        suppressed=0 if skips else written.missing,
        quarantined=len(refused),
        unchanged=max(0, page.taken - written.keys - written.missing - len(refused)),
    )
    if refused:
        add_event(
            bench.conn,
            bench.ledger,
            Event.ROWS_QUARANTINED,
            run=now.run,
            caused_by=bench.holder,
            slice=now.number,
            rows=len(refused),
            sqlstates=sorted({sqlstate for _, sqlstate, _ in refused if sqlstate is not None}),
        )
        quarantine.add_quarantined(bench.conn, bench.ledger, now, refused)
    added = page.record(bench, now, outcome)
    if now.phase is SlicePhase.WALK:
        limit.check(bench, now, added.paged)
    phase = _next_phase(bench, now, page, added)
    held = slices.record(
        bench.conn,
        bench.ledger,
        now,
        cursor=page.cursor,
        added=added,
        phase=phase,
        taken=page.taken,
        lease_seconds=bench.settings.lease_seconds,
        reads_wal=bench.reads_wal,
    )
    return Batch(
        held=held,
        asked=0,
        added=added,
        taken=page.taken,
        refused=len(refused),
        missed=len(page.missed),
        seconds=0.0,
        busy_seconds=0.0,
        wal_bytes=_between(now.wal_at, held.wal_at),
        at_end=page.at_end,
        was_sweep=page.is_sweep,
    )


def _between(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def _next_phase(bench: Bench, now: Slice, page: Page, added: Counts) -> SlicePhase:
    if not page.at_end:
        return now.phase
    if now.counts.deferred + added.deferred:
        return SlicePhase.SWEEP
    return SlicePhase.VERIFY if bench.checks_completion else SlicePhase.DONE


def interruption(
    bench: Bench, step: Step, error: psycopg.Error
) -> RowsRefusedError | RetriableError | StopError:
    """What an error of PostgreSQL in a batch means for it."""
    fault: Fault = classify(
        error,
        writing=step.name == "write",
        seconds=bench.clock.monotonic() - step.since,
        timeout=bench.options.statement_timeout_seconds,
    )
    match fault.kind:
        case FaultKind.ROW:
            return RowsRefusedError(step.page.taken if step.page else 0, fault.summary)
        case FaultKind.TRANSIENT:
            # a smaller batch is younger when it writes, and may wait for longer
            return RetriableError(fault, timed_out=step.is_pressed and fault.is_locked_out)
        case FaultKind.TIMEOUT:
            return RetriableError(fault, timed_out=True)
        case _:
            told = in_a_reason(fault, bench.secrets)
            return StopError(f"in the step {step.name}: {told}", summary=fault.summary)
