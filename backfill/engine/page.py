"""The rows of a batch: chosen and locked, by walking the key or from the deferred keys.

I2: what is on the page and was not obtained is either gone or deferred, never forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from psycopg import errors as pg_errors

from backfill.engine.bench import Bench
from backfill.job import Row
from backfill.model import Counts, Key
from backfill.pg import deferred
from backfill.pg.keyset import Keyset, bound, key_arrays
from backfill.pg.slices import Slice

#: Keys looked at for one match: a sparse scope must not scan a slice in one statement.
SCAN_ROWS_PER_ROW = 10
LEAST_SCAN_ROWS = 5_000
#: After so many tries a deferred row is waited for, alone.
PATIENT_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Rows that this transaction has locked.

    Attributes:
        keys: of the rows taken; ascending when walking.
        rows: the same rows for a Python transform; empty when PostgreSQL computes.
        paged: keys on the page, taken or not.
        cursor: where the slice's cursor goes.
        at_end: nothing is left for this phase behind this page.
        missed: deferred keys that were tried and not obtained (sweep only).
        gone: deferred keys that are not ours any more (sweep only).
    """

    keys: Sequence[Key]
    rows: Sequence[Row]
    paged: int
    cursor: Key | None
    at_end: bool
    is_sweep: bool = False
    is_cut: bool = False
    missed: Sequence[Key] = ()
    gone: Sequence[Key] = ()

    def cut(self, held: Slice, done: int) -> Page:
        """The page without the rows that time did not suffice for; they stay unlocked after it."""
        if done == len(self.keys):
            return self
        return replace(
            self,
            keys=self.keys[:done],
            rows=self.rows[:done],
            cursor=held.cursor if self.is_sweep else self.keys[done - 1],
            at_end=False,
            is_cut=True,
        )

    def record(self, bench: Bench, held: Slice, outcome: Counts) -> Counts:
        """Remember what was not obtained; returns what the whole page adds to the counts."""
        if self.is_sweep:
            deferred.settle_deferred(
                bench.conn,
                bench.ledger,
                held,
                settled=[*self.keys, *self.gone],
                missed=self.missed,
            )
            settled = len(self.keys) + len(self.gone)
            return outcome + Counts(gone=len(self.gone), deferred=-settled)
        taken = len(self.keys)
        if taken == self.paged:  # what is taken is on the page, so nothing is missing
            return outcome + Counts(paged=taken)
        left = _left(bench, held, self)
        new = deferred.add_deferred(bench.conn, bench.ledger, held, left) if left else 0
        gone = 0 if self.is_cut else max(0, self.paged - taken - len(left))
        return outcome + Counts(paged=taken + new + gone, deferred=new, gone=gone)


def _keyset(bench: Bench, held: Slice) -> tuple[Keyset, dict[str, Any]]:
    """What is ours in this slice; on a further pass without the keys that are in quarantine."""
    arguments: dict[str, Any] = dict(bench.arguments)
    if held.passes == 0 or held.counts.quarantined == 0:
        return bench.keyset, arguments
    arguments |= {"run_id": held.run, "slice_number": held.number}
    return bench.after_rewalk, arguments


def walk_page(bench: Bench, held: Slice, rows: int) -> Page:
    """Choose and lock the next rows after the cursor."""
    keyset, arguments = _keyset(bench, held)
    width = len(keyset.columns)
    after = held.cursor if held.cursor is not None else held.after
    scan_rows = max(LEAST_SCAN_ROWS, rows * SCAN_ROWS_PER_ROW)
    lines = bench.conn.execute(
        keyset.page(after=after is not None, lock=bench.writer.lock, columns=bench.columns),
        {
            **arguments,
            **bound("after", after),
            **bound("upto", held.upto),
            "scan_rows": scan_rows,
            "page_rows": rows,
        },
    ).fetchall()
    kept, paged, last_key, last_n = lines[0][:4]
    # fewer matches than asked for, and the scan did not use up its keys: the slice's end
    at_end = kept < rows and last_n != scan_rows
    keys, taken = _taken(bench, lines, width, offset=4)
    return Page(
        keys=keys,
        rows=taken,
        paged=paged,
        cursor=held.upto if at_end else tuple(last_key),
        at_end=at_end,
    )


def _taken(
    bench: Bench, lines: Sequence[Sequence[Any]], width: int, *, offset: int
) -> tuple[list[Key], list[Row]]:
    """Keys and rows from lines in the form that `Keyset.page` returns."""
    end = offset + width
    if bench.rows is None:
        arrays = lines[0][offset:end]
        return ([] if arrays[0] is None else list(zip(*arrays, strict=True))), []
    if lines[0][offset] is None:
        return [], []
    make = bench.rows
    return [tuple(line[offset:end]) for line in lines], [make(line[end:]) for line in lines]


def _left(bench: Bench, held: Slice, page: Page) -> list[Key]:
    """Keys up to the page's cursor that are ours now and were not taken."""
    keyset, arguments = _keyset(bench, held)
    after = held.cursor if held.cursor is not None else held.after
    return [
        tuple(line)
        for line in bench.conn.execute(
            keyset.left(after=after is not None),
            {
                **arguments,
                **bound("after", after),
                **bound("upto", page.cursor),
                **key_arrays(page.keys, len(keyset.columns)),
            },
        )
    ]


def sweep_page(bench: Bench, held: Slice, rows: int) -> Page:
    """Lock deferred rows, passing by what is held; one tried often is waited for, alone."""
    due = deferred.deferred_keys(bench.conn, bench.ledger, held, limit=rows)
    patient = bool(due) and due[0][1] >= PATIENT_TRIES
    keys = [key for key, _ in (due[:1] if patient else due)]
    if not keys:
        return Page(keys=[], rows=[], paged=0, cursor=held.cursor, at_end=True, is_sweep=True)
    width = len(bench.keyset.columns)
    statement = bench.keyset.take(lock=bench.writer.lock, columns=bench.columns, waiting=patient)
    arguments = {**bench.arguments, **key_arrays(keys, width)}
    if patient:
        bench.conn.execute("SAVEPOINT waiting")
    try:
        lines = bench.conn.execute(statement, arguments).fetchall()
    except pg_errors.LockNotAvailable:
        if not patient:
            raise
        bench.conn.execute("ROLLBACK TO SAVEPOINT waiting")
        lines = []
    taken = [line[:width] for line in lines]
    obtained = set(taken)
    others = [key for key in keys if key not in obtained]
    missed: set[Key] = set()
    if others:
        missed = {
            tuple(line)
            for line in bench.conn.execute(
                bench.keyset.still_ours(), {**bench.arguments, **key_arrays(others, width)}
            )
        }
    gone = [key for key in others if key not in missed]
    rows_made = [] if bench.rows is None else [bench.rows(line[width:]) for line in lines]
    return Page(
        keys=taken,
        rows=rows_made,
        paged=0,
        cursor=held.cursor,
        at_end=len(due) <= len(keys) and len(due) < rows and not missed,
        is_sweep=True,
        missed=[key for key in others if key in missed],
        gone=gone,
    )
