"""A batch whose rows are not locked while the transform works: `lock="optimistic"`, and Call.

1. Rows are read without locks, in a short transaction (unlocked.py). What is read where nothing
   can be locked, such as a query that groups, may take its time: it has a connection of its own,
   and the slice's lease is renewed meanwhile.
2. They are transformed outside any transaction (I5), so a transform may wait for an answer. The
   slice's lease is renewed meanwhile (beat.py). A worker that is to stop begins no further row.
3. One transaction as for every batch (I1): the slice's row is locked under our epoch; the rows are
   locked unless what was read of them has changed; they are written and recorded. What has changed
   is deferred, so the sweep reads it anew (I2). A row that changes again and again is taken with
   its lock at last (page.py, PATIENT_TRIES).

Call has nothing to write or to lock: its third step records what has happened. That is done in a
paused run, too, because the calls were made before it paused, and nothing of the user's is touched.

Where a process can die, and what is then so (tests/engine/test_crash_points.py kills it at each,
besides the points of batch.py):

    before the page        nothing happened
    after the transform    nothing is written. What the transform itself did has been done, and is
                           done again: for Call that is why it is at least once
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import psycopg

from backfill.engine import batch, limit, unlocked
from backfill.engine.batch import Batch, Step
from backfill.engine.beat import beat_of
from backfill.engine.bench import Bench, Probe, no_probe
from backfill.engine.faults import RowsRefusedError
from backfill.engine.page import PATIENT_TRIES, Page, missed_or_gone
from backfill.engine.reading import Reading
from backfill.engine.telling import to_its_owner
from backfill.engine.transform import Outcome, Refusal
from backfill.engine.unlocked import Seen
from backfill.job import Row
from backfill.model import Key, SlicePhase
from backfill.pg import deferred, slices
from backfill.pg.connect import application_name, transaction
from backfill.pg.failure import FaultKind, classify
from backfill.pg.keyset import at_places, key_arrays
from backfill.pg.slices import Slice
from backfill.pg.unlocked import unchanged

#: After so long a page's further rows are left to the next one. What is computed and not recorded
#: yet is lost when the process dies: for Call these are the rows that are called twice.
TRANSFORM_SECONDS = 1.0


def execute(bench: Bench, held: Slice, *, rows: int, probe: Probe = no_probe) -> Batch:
    """Do the next batch of a slice, of at most `rows` rows.

    Raises:
        Interruption: as batch.execute does.
    """
    reading = bench.reading
    if reading is None:
        raise TypeError("this run's rows are locked when they are read")
    clock, step = bench.clock, Step(bench)
    started = clock.monotonic()
    try:
        now = batch.allowed(
            held,
            slices.renew(
                bench.conn, bench.ledger, held, lease_seconds=bench.settings.lease_seconds
            ),
        )
        if reading.takes and _is_due_with_lock(bench, now):
            return batch.execute(bench, held, rows=rows, probe=probe)
        rows = limit.within(bench, now, rows)
        probe("before the page")
        seen, refusal = read(bench, reading, now, rows)
    except psycopg.Error as error:
        raise batch.interruption(bench, step, error) from error
    read_seconds = clock.monotonic() - started
    made: list[Row] = []
    outcomes: list[Outcome] = [refusal] if refusal is not None else []
    if refusal is None:
        seen, made, outcomes = _transform(bench, now, seen)
    began = clock.monotonic()
    try:
        probe("after the transform")
        done = _commit(bench, reading, now, seen, outcomes, step=step, probe=probe)
    except psycopg.Error as error:
        bench.memory.keep(seen.keys, made, outcomes)
        raise batch.interruption(bench, step, error) from error
    except RowsRefusedError:
        bench.memory.keep(seen.keys, made, outcomes)
        raise
    ended = clock.monotonic()
    return replace(
        done,
        asked=rows,
        seconds=ended - started,
        busy_seconds=read_seconds + ended - began,
    )


def read(
    bench: Bench, reading: Reading, held: Slice, rows: int, *, is_trial: bool = False
) -> tuple[Seen, Refusal | None]:
    """The next rows; where PostgreSQL computes as it reads, and refuses the only one, why.

    Raises:
        RowsRefusedError: it refuses one of several.

    Raises what psycopg raises otherwise.
    """
    try:
        if is_trial or bench.source_conn is None:
            return unlocked.read(bench, reading, held, rows, is_trial=is_trial), None
        with beat_of(bench, held):
            return unlocked.read(bench, reading, held, rows), None
    except psycopg.Error as error:
        fault = classify(error, writing=reading.computes)
        if fault.kind is not FaultKind.ROW:
            raise
        if rows > 1:
            raise RowsRefusedError(rows, fault.summary) from error
        seen = unlocked.read(bench, reading.of_keys(), held, rows, is_trial=is_trial)
        return seen, Refusal(to_its_owner(fault, bench.secrets), fault.sqlstate)


def _is_due_with_lock(bench: Bench, held: Slice) -> bool:
    if held.phase is not SlicePhase.SWEEP:
        return False
    due = deferred.deferred_keys(bench.conn, bench.ledger, held, limit=1)
    return bool(due) and due[0][1] >= PATIENT_TRIES


def _transform(bench: Bench, held: Slice, seen: Seen) -> tuple[Seen, list[Row], list[Outcome]]:
    """The rows that were done, as they were seen, and their outcomes."""
    made = seen.rows(bench)
    if bench.transform is None:
        return seen, made, copied(bench, seen)
    if not made:
        return seen, made, []
    with beat_of(bench, held) as beat:
        outcomes = bench.transform(
            seen.keys,
            made,
            bench.memory,
            deadline=bench.clock.monotonic() + TRANSFORM_SECONDS,
            should_stop=beat.should_stop,
        )
    return seen.cut(held, len(outcomes)), made[: len(outcomes)], outcomes


def copied(bench: Bench, seen: Seen) -> list[Outcome]:
    """What is written where PostgreSQL has computed it as it was read."""
    names = () if bench.reading is None else bench.reading.names
    return [[dict(zip(names, values, strict=True))] for values in seen.values]


def _commit(
    bench: Bench,
    reading: Reading,
    held: Slice,
    seen: Seen,
    outcomes: Sequence[Outcome],
    *,
    step: Step,
    probe: Probe,
) -> Batch:
    with transaction(
        bench.conn,
        bench.limits,
        name=application_name(held.run, held.number, held.epoch),
        run=held.run,
        in_batch=True,
        on_unconfirmed=bench.hear_unconfirmed,
    ):
        step.begin("page")
        now = batch.hold(bench, held, may_be_paused=not bench.writer.writes_rows)
        page, kept = take_unchanged(bench, reading, seen, outcomes)
        step.page = page
        step.begin("write")
        written, refused = batch.write_page(bench, now, page, kept, step)
        step.begin("record")
        probe("after the write")
        done = batch.record(bench, now, page, written, refused)
        probe("before COMMIT")
        step.begin("commit")
    probe("after COMMIT")
    return done


def take_unchanged(
    bench: Bench, reading: Reading, seen: Seen, outcomes: Sequence[Outcome]
) -> tuple[Page, list[Outcome]]:
    """Lock what is as it was read: the page of what is to be written, and its outcomes."""
    taken, others = list(seen.keys), list[Key]()
    if reading.takes and seen.keys:
        taken, others = at_places(seen.keys, _unchanged(bench, reading, seen))
    kept = list(outcomes)
    if others:
        of_key = dict(zip(seen.keys, outcomes, strict=True))
        kept = [of_key[key] for key in taken]
    missed, gone = missed_or_gone(bench, others) if seen.is_sweep else ([], [])
    page = Page(
        taken=len(taken),
        keys=taken,
        rows=[],
        paged=0 if seen.is_sweep else len(seen.keys),
        last=None,
        cursor=seen.cursor,
        at_end=seen.at_end and not missed,
        is_sweep=seen.is_sweep,
        is_cut=False,
        missed=missed,
        gone=[*seen.gone, *gone] if seen.is_sweep else [],
    )
    return page, kept


def _unchanged(bench: Bench, reading: Reading, seen: Seen) -> list[tuple[Any, ...]]:
    return bench.conn.execute(
        unchanged(bench.keyset, columns=reading.sealed, lock=bench.writer.lock),
        {
            **bench.arguments,
            **key_arrays(seen.keys, len(bench.keyset.columns)),
            **unlocked.seed(),
            "seals": f"{{{','.join(seen.seals)}}}",
        },
    ).fetchall()
