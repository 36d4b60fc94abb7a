"""Placing slices: a frontier, not a plan. Nothing is scanned before the work starts.

A worker that finds no free slice walks the key's index beyond the frontier, without the scope and
outside any lock, and places the slice by compare-and-swap on the run: two workers that walk at the
same time waste a few milliseconds, nothing else (I2: slices tile the key space up to the horizon).
"""

from __future__ import annotations

from backfill.engine import limit
from backfill.engine.bench import Bench
from backfill.engine.source import reading_source
from backfill.model import Key
from backfill.pg import slices
from backfill.pg.keyset import bound
from backfill.pg.ledger import get_run
from backfill.pg.slices import Slice


def place_next(bench: Bench, *, slot: int) -> Slice | None:
    """Place and hold the next slice; None: the frontier is at the horizon, or at the run's limit.

    Raises:
        SlotTakenError: another task fills this slot.
        NoRoomError: the database's limit on slots is reached, or the run's row is held.
        StopError: the source is too slow.
    """
    while True:
        run = get_run(bench.conn, bench.ledger, bench.run.id)
        if run.frontier_done or run.horizon is None or not run.run_state.is_working:
            return None
        if run.row_limit is not None and not limit.may_place(bench):
            return None
        after = None if run.frontier is None else tuple(run.frontier)
        upto, is_last = _upper_end(bench, after, tuple(run.horizon))
        with slices.room(bench.conn, bench.ledger, bench.max_slots):
            placed = slices.place(
                bench.conn,
                bench.ledger,
                run.id,
                after=after,
                upto=upto,
                is_last=is_last,
                holder=bench.holder,
                slot=slot,
                lease_seconds=bench.settings.lease_seconds,
            )
        if placed is not None:
            return placed


def _upper_end(bench: Bench, after: Key | None, horizon: Key) -> tuple[Key, bool]:
    with reading_source(bench):
        row = bench.reader.execute(
            bench.keyset.nth_key(after=after is not None),
            {
                **bench.arguments,
                **bound("after", after),
                **bound("upto", horizon),
                "rows": bench.options.slice_rows,
            },
        ).fetchone()
    if row is None:
        return horizon, True
    upto = tuple(row[0])
    return upto, upto == horizon
