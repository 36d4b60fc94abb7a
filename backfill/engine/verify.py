"""The completion check: slice by slice, does as much remain as that slice left? (I2)

What remains is what `where AND todo` still finds; what a slice left is what it counted as
unchanged, skipped, suppressed or quarantined. A slice with more is walked again, at most three
times; then the run fails and names keys. The count is paged, never one scan.
"""

from __future__ import annotations

from dataclasses import dataclass

from backfill.engine import lifecycle
from backfill.engine.bench import Bench
from backfill.engine.faults import NotAllowedError, StaleEpochError
from backfill.events import NAMING_KEYS, Event
from backfill.model import Key, RunState, SlicePhase
from backfill.pg import completion, slices
from backfill.pg.connect import READ_LIMITS, transaction
from backfill.pg.keyset import bound
from backfill.pg.ledger import add_event
from backfill.pg.slices import Slice

#: Keys looked at in one statement.
PAGE_ROWS = 50_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the check of a slice found."""

    remaining: int
    left: int

    @property
    def agrees(self) -> bool:
        return self.remaining <= self.left


def verify(bench: Bench, held: Slice) -> Verdict:
    """Check a slice and move it on: to `done`, or to be walked again.

    Raises:
        StaleEpochError, NotAllowedError: nothing was changed.
    """
    remaining = _remaining(bench, held)
    examples: list[Key] = []
    with transaction(bench.conn):
        found = slices.lock(bench.conn, bench.ledger, held)
        if found is None:
            raise StaleEpochError(f"slice {held.number} is another's")
        now, state = found
        if state != RunState.VERIFYING or now.phase is not SlicePhase.VERIFY:
            raise NotAllowedError(f"the run is {state}")
        counts = now.counts
        left = counts.unchanged + counts.skipped + counts.suppressed + counts.quarantined
        verdict = Verdict(remaining, left)
        give_up = not verdict.agrees and now.passes >= lifecycle.MOST_PASSES
        if verdict.agrees:
            bench.conn.execute(
                bench.ledger.q(
                    "UPDATE {s}.slice SET phase = 'done', holder = NULL, slot = NULL,"
                    " lease_until = NULL WHERE run = %s AND number = %s"
                ),
                [now.run, now.number],
            )
        elif not give_up:
            _walk_again(bench, now, verdict)
    if give_up:
        examples = _examples(bench, held)
        lifecycle.fail(
            bench.conn,
            bench.ledger,
            held.run,
            reason=f"slice {held.number}: {remaining} rows still match the todo after"
            f" {lifecycle.MOST_PASSES + 1} passes, and only {left} of them were left on purpose"
            f"{NAMING_KEYS} {', '.join('/'.join(key) for key in examples)}. Does the"
            " write make the todo false, and does nothing undo it?",
            by=bench.holder,
        )
    return verdict


def _remaining(bench: Bench, held: Slice) -> int:
    """Up to the slice's end, which for one that was cut is where its walk came to."""
    total: int = 0
    after, upto = held.after, held.cursor if held.is_cut else held.upto
    while upto is not None:
        with transaction(bench.conn, READ_LIMITS, run=held.run):
            ours, looked_at, last = bench.conn.execute(
                completion.remaining(bench.keyset, after=after is not None),
                {
                    **bench.arguments,
                    **bound("after", after),
                    **bound("upto", upto),
                    "rows": PAGE_ROWS,
                },
            ).fetchall()[0]
        total += ours
        if looked_at < PAGE_ROWS or tuple(last) == upto:
            return total
        after = tuple(last)
        slices.heartbeat(bench.conn, bench.ledger, held, lease_seconds=bench.settings.lease_seconds)
    return 0


def _walk_again(bench: Bench, now: Slice, verdict: Verdict) -> None:
    """Keys left on purpose are paged, and counted, anew; quarantined ones are left out."""
    bench.conn.execute(
        bench.ledger.q(
            "UPDATE {s}.slice SET phase = 'walk', cursor = NULL, pass = pass + 1, allowance = 0,"
            " is_cut = false,"
            " paged = paged - unchanged - skipped - suppressed, unchanged = 0, skipped = 0,"
            " suppressed = 0, holder = NULL, slot = NULL, lease_until = NULL"
            " WHERE run = %s AND number = %s"
        ),
        [now.run, now.number],
    )
    add_event(
        bench.conn,
        bench.ledger,
        Event.SLICE_REWALKED,
        run=now.run,
        caused_by=bench.holder,
        slice=now.number,
        passes=now.passes + 1,
        remaining=verdict.remaining,
        left=verdict.left,
    )


def _examples(bench: Bench, held: Slice) -> list[Key]:
    with transaction(bench.conn, READ_LIMITS, run=held.run):
        return [
            tuple(row[0])
            for row in bench.conn.execute(
                completion.examples(bench.keyset, after=held.after is not None),
                {
                    **bench.arguments,
                    **bound("after", held.after),
                    **bound("upto", held.cursor if held.is_cut else held.upto),
                },
            )
        ]
