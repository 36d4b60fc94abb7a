"""Rows read without locks, in a transaction that ends before anything is done with them (I5).

What a page is read FROM is the keyset's to say, and through which connection the workbench's: its
own, or one to another database. So rows can be read that nothing could lock. What is not locked may
change before it is written: see optimistic.py.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from psycopg import sql

from backfill.engine import misfits
from backfill.engine.bench import Bench
from backfill.engine.page import LEAST_SCAN_ROWS, SCAN_ROWS_PER_ROW, ours
from backfill.engine.reading import Reading, readable
from backfill.job import Row
from backfill.model import Key, SlicePhase
from backfill.pg import deferred, unlocked
from backfill.pg.connect import application_name, transaction, trial
from backfill.pg.keyset import Keyset, at_places, bound, key_arrays
from backfill.pg.slices import Slice

#: Seals are compared by the process that made them only; nobody can foresee which values share one.
_SEED = secrets.randbits(63)


def seed() -> dict[str, int]:
    """The parameter of all statements with a seal."""
    return {"seed": _SEED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Rows as they were when they were read.

    Attributes:
        keys: in the key's order.
        values: of each what was read.
        seals: of each; see pg/unlocked.py.
        cursor: where the slice's cursor goes when all of them are done.
        at_end: nothing is left for this phase behind them.
        gone: deferred keys that are not ours any more (sweep only).
    """

    keys: Sequence[Key]
    values: Sequence[Sequence[Any]]
    seals: Sequence[str]
    cursor: Key | None
    at_end: bool
    is_sweep: bool
    is_cut: bool = False
    gone: Sequence[Key] = ()

    def rows(self, bench: Bench) -> list[Row]:
        """The rows as a Python transform sees them."""
        return [] if bench.rows is None else bench.rows.many(self.values)

    def cut(self, held: Slice, done: int) -> Seen:
        """The first rows, those that were done."""
        if done == len(self.keys):
            return self
        return replace(
            self,
            keys=self.keys[:done],
            values=self.values[:done],
            seals=self.seals[:done],
            cursor=held.cursor if self.is_sweep else self.keys[done - 1],
            at_end=False,
            is_cut=True,
        )


def read(bench: Bench, reading: Reading, held: Slice, rows: int, *, is_trial: bool = False) -> Seen:
    """The next rows of a slice in its phase, at most so many.

    Args:
        is_trial: roll back what the user's expressions have done while they were read.

    Raises what psycopg raises; the connection's transaction is over in any case.
    """
    due: Sequence[Key] = ()
    is_walk = is_trial or held.phase is SlicePhase.WALK
    if not is_walk:
        due = [key for key, _ in deferred.deferred_keys(bench.conn, bench.ledger, held, limit=rows)]
    begun = trial if is_trial else partial(transaction, in_batch=True)
    with begun(
        bench.reader,
        bench.limits,
        name=application_name(held.run, held.number, held.epoch),
        run=held.run,
        joins_freely=not bench.source.is_lockable,
    ):
        if is_walk:
            return _walk(bench, reading, held, rows)
        return _sweep(bench, reading, held, due, at_end=len(due) < rows)


def page(keyset: Keyset, reading: Reading, *, after: bool) -> sql.Composed:
    """The statement that reads a page; its parameters are in pg/unlocked.py.

    Args:
        keyset: where the rows are read (`readable`).
    """
    return unlocked.page(
        keyset,
        after=after,
        values=_values(keyset, reading),
        needs=reading.needs,
        repeats=reading.may_misfit,
    )


def _values(keyset: Keyset, reading: Reading) -> list[sql.Composable]:
    if not reading.sealed:
        return [*reading.values, sql.SQL("NULL")]
    return [*reading.values, unlocked.seal(keyset, reading.sealed)]


def _walk(bench: Bench, reading: Reading, held: Slice, rows: int) -> Seen:
    keyset, arguments = ours(bench, held)
    keyset = readable(bench.query, keyset, reading)
    after = held.cursor if held.cursor is not None else held.after
    scan_rows = max(LEAST_SCAN_ROWS, rows * SCAN_ROWS_PER_ROW)
    lines = bench.reader.execute(
        page(keyset, reading, after=after is not None),
        {
            **arguments,
            **bound("after", after),
            **bound("upto", held.upto),
            **seed(),
            "scan_rows": scan_rows,
            "page_rows": rows,
        },
    ).fetchall()
    width = len(keyset.columns)
    if reading.may_misfit:
        _check(keyset, lines)
        # one row more was told, for its key alone
        lines = [line for line in lines[:rows] if line[1] <= scan_rows]
    last = lines[-1][3 : 3 + width] if lines else None
    # fewer than asked for, and the scan did not use up its keys: the slice's end; or its last key
    # itself (equal texts are equal keys)
    is_short = len(lines) < rows and not (lines and lines[-1][1] == scan_rows)
    at_end = is_short or last == held.upto
    cursor = held.upto if at_end or last is None else last
    found = [line[3:] for line in lines if line[0]]
    keys = [line[:width] for line in found]
    begins = after or bench.run.from_key
    misfits.check_null_behind(bench, keyset, None if begins is None else tuple(begins), cursor)
    return Seen(
        keys=keys,
        values=[line[width:-1] for line in found],
        seals=[str(line[-1]) for line in found],
        cursor=cursor,
        at_end=at_end,
        is_sweep=False,
    )


def _check(keyset: Keyset, lines: Sequence[Sequence[Any]]) -> None:
    """Keys of the page that cannot serve."""
    for _, _, is_again, *line in lines:
        key = line[: len(keyset.columns)]
        misfits.check_null(keyset, key)
        if is_again:
            raise misfits.refuse_repeated(keyset, key)


def _sweep(
    bench: Bench, reading: Reading, held: Slice, due: Sequence[Key], *, at_end: bool
) -> Seen:
    width = len(bench.keyset.columns)
    keyset = readable(bench.query, bench.keyset, reading)
    if reading.may_misfit:
        misfits.check_repeated(bench, keyset, due)
    lines = (
        bench.reader.execute(
            unlocked.again(keyset, values=_values(keyset, reading)),
            {**bench.arguments, **key_arrays(due, width), **seed()},
        ).fetchall()
        if due
        else []
    )
    keys, gone = at_places(due, lines)
    return Seen(
        keys=keys,
        values=[line[1:-1] for line in lines],
        seals=[str(line[-1]) for line in lines],
        cursor=held.cursor,
        at_end=at_end,
        is_sweep=True,
        gone=gone,
    )
