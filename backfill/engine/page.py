"""The rows of a batch: chosen and locked, by walking the key or from the deferred keys.

I2: what is on the page and was not obtained is either gone or deferred, never forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from psycopg import errors as pg_errors
from psycopg import sql

from backfill.engine.bench import Bench
from backfill.engine.faults import StopError
from backfill.events import NAMING_KEYS
from backfill.job import Row
from backfill.model import Counts, Key
from backfill.pg import deferred, unfit
from backfill.pg.keyset import Keyset, at_places, bound, key_arrays
from backfill.pg.query import QuerySql
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
        taken: how many rows are locked.
        keys: of the rows taken, in the order they were locked in; empty when `is_whole`.
        is_whole: every key between the bounds was taken, so that the bounds serve instead of keys.
        rows: the same rows for a Python transform; empty when PostgreSQL computes.
        paged: keys on the page, taken or not.
        last: the last key on the page; None when it is empty.
        cursor: where the slice's cursor goes.
        at_end: nothing is left for this phase behind this page.
        missed: deferred keys that were tried and not obtained (sweep only).
        gone: deferred keys that are not ours any more (sweep only).
    """

    taken: int
    keys: Sequence[Key]
    rows: Sequence[Row]
    paged: int
    last: Key | None
    cursor: Key | None
    at_end: bool
    is_whole: bool = False
    is_sweep: bool = False
    is_cut: bool = False
    missed: Sequence[Key] = ()
    gone: Sequence[Key] = ()

    def cut(self, bench: Bench, held: Slice, done: int) -> Page:
        """The page without the rows that time did not suffice for; they stay unlocked after it.

        Those below the largest row that was done, if any, become deferred rows.
        """
        if done == self.taken:
            return self
        keys = self.keys[:done]
        return replace(
            self,
            taken=done,
            keys=keys,
            rows=self.rows[:done],
            cursor=held.cursor if self.is_sweep else _largest(bench, keys),
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
        taken = self.taken
        if taken == self.paged:  # what is taken is on the page, so nothing is missing
            return outcome + Counts(paged=outcome.total)
        left = _left(bench, held, self)
        new = deferred.add_deferred(bench.conn, bench.ledger, held, left) if left else 0
        gone = 0 if self.is_cut else max(0, self.paged - taken - len(left))
        return outcome + Counts(paged=outcome.total + new + gone, deferred=new, gone=gone)


def ours(bench: Bench, held: Slice) -> tuple[Keyset, dict[str, Any]]:
    """What is ours in this slice; on a further pass without the keys that are in quarantine."""
    arguments: dict[str, Any] = dict(bench.arguments)
    if held.passes == 0 or held.counts.quarantined == 0:
        return bench.keyset, arguments
    arguments |= {"run_id": held.run, "slice_number": held.number}
    return bench.after_rewalk, arguments


def walk_page(bench: Bench, held: Slice, rows: int) -> Page:
    """Choose and lock the next rows after the cursor."""
    keyset, arguments = ours(bench, held)
    width = len(keyset.columns)
    after = held.cursor if held.cursor is not None else held.after
    scan_rows = max(LEAST_SCAN_ROWS, rows * SCAN_ROWS_PER_ROW)
    lines = bench.conn.execute(
        keyset.page(
            after=after is not None,
            lock=bench.writer.lock,
            columns=None if bench.query is not None else bench.columns,
            # the bounds would take in the quarantined keys that a further pass leaves out
            all_keys=keyset is not bench.keyset or not bench.writer.writes_ranges,
        ),
        {
            **arguments,
            **bound("after", after),
            **bound("upto", held.upto),
            "scan_rows": scan_rows,
            "page_rows": rows,
        },
    ).fetchall()
    # the line about the page comes first, unless PostgreSQL takes up UNION ALL in another order
    first = next(i for i, line in enumerate(lines) if line[0] is not None)
    head = lines.pop(first)
    kept, paged, last_n, *last = head[0]
    if bench.source.has_children and last:
        _refuse_twice(
            bench,
            unfit.twice_between(keyset, after=after is not None),
            {**bound("after", after), **bound("upto", tuple(last))},
        )
    # fewer matches than asked for, and the scan did not use up its keys: the slice's end; or its
    # last key itself (equal texts are equal keys)
    is_short = int(kept) < rows and (last_n is None or int(last_n) != scan_rows)
    at_end = is_short or tuple(last) == held.upto
    taken, keys, made = _taken(bench, head, lines, width)
    if bench.query is not None:
        keys, made = _read_again(bench, bench.query, keys)
        taken = len(keys)
    return Page(
        taken=taken,
        keys=keys,
        rows=made,
        paged=int(paged),
        last=tuple(last) or None,
        cursor=held.upto if at_end else tuple(last),
        at_end=at_end,
        is_whole=taken > len(keys),
    )


def _refuse_twice(
    bench: Bench, statement: sql.SQL | sql.Composed, arguments: Mapping[str, Any]
) -> None:
    """Stop where a parent and a table that inherits from it have a row each of one key.

    No index spans both, and whatever is written by key would be written into both.
    """
    found = bench.conn.execute(statement, arguments).fetchone()
    if found is not None:
        raise StopError(
            f"a key occurs twice in {bench.source.qualified} and the tables that inherit from it"
            f"{NAMING_KEYS} ({', '.join(found[0])})",
            summary="a key occurs twice",
        )


def _taken(
    bench: Bench, head: Sequence[Any], lines: Sequence[tuple[Any, ...]], width: int
) -> tuple[int, list[Key], list[Row]]:
    """How many rows, their keys and values, from lines in the form that `Keyset.page` returns."""
    if bench.rows is None or bench.query is not None:
        count, arrays = head[1], head[2:]
        return count, ([] if arrays[0] is None else list(zip(*arrays, strict=True))), []
    end = 1 + width
    keys = [line[1:end] for line in lines]
    return len(keys), keys, bench.rows.many([line[end:] for line in lines])


def _read_again(bench: Bench, query: QuerySql, keys: Sequence[Key]) -> tuple[list[Key], list[Row]]:
    """Of these keys, whose rows are locked, those that the query gives now, and what it gives."""
    if not keys:
        return [], []
    lines = bench.conn.execute(
        query.read(bench.keyset, bench.columns or ()),
        {**bench.arguments, **key_arrays(keys, len(bench.keyset.columns))},
    ).fetchall()
    places = [line[0] for line in lines]
    if len(set(places)) < len(places):
        twice = next(place for place, after in pairwise(places) if place == after)
        raise StopError(
            f"the query gives two rows of one key; a row of {bench.source.qualified} can be given"
            f" once only{NAMING_KEYS} ({', '.join(keys[twice - 1])})",
            summary="a key occurs twice",
        )
    made = [] if bench.rows is None else bench.rows.many([line[1:] for line in lines])
    return [keys[place - 1] for place in places], made


def _largest(bench: Bench, keys: Sequence[Key]) -> Key:
    """Of keys whose rows this transaction has locked."""
    row = bench.conn.execute(
        bench.keyset.largest(), key_arrays(keys, len(bench.keyset.columns))
    ).fetchone()
    if row is None:
        raise AssertionError("locked rows have vanished")
    return tuple(row[0])


def page_bounds(bench: Bench, held: Slice, page: Page) -> tuple[bool, dict[str, Any]]:
    """Whether there is a lower bound, and the parameters of both: `(cursor, last]`."""
    after = held.cursor if held.cursor is not None else held.after
    return after is not None, {
        **ours(bench, held)[1],
        **bound("after", after),
        **bound("upto", page.last),
    }


def _left(bench: Bench, held: Slice, page: Page) -> list[Key]:
    """Keys up to the page's cursor that are ours now and were not taken."""
    keyset, arguments = ours(bench, held)
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
        return Page(
            taken=0,
            keys=[],
            rows=[],
            paged=0,
            last=None,
            cursor=held.cursor,
            at_end=True,
            is_sweep=True,
        )
    width = len(bench.keyset.columns)
    columns = None if bench.query is not None else bench.columns
    statement = bench.keyset.take(lock=bench.writer.lock, columns=columns, waiting=patient)
    arguments = {**bench.arguments, **key_arrays(keys, width)}
    if bench.source.has_children:
        _refuse_twice(bench, unfit.twice_among(bench.keyset), key_arrays(keys, width))
    if patient:
        bench.conn.execute("SAVEPOINT waiting")
    try:
        lines = bench.conn.execute(statement, arguments).fetchall()
    except pg_errors.LockNotAvailable:
        if not patient:
            raise
        bench.conn.execute("ROLLBACK TO SAVEPOINT waiting")
        lines = []
    taken, others = at_places(keys, lines)
    made: Sequence[Row] = ()
    if bench.query is not None:
        taken, made = _read_again(bench, bench.query, taken)
        obtained = set(taken)
        others = [key for key in keys if key not in obtained]
    elif bench.rows is not None:
        made = bench.rows.many([line[1:] for line in lines])
    missed, gone = missed_or_gone(bench, others)
    return Page(
        taken=len(taken),
        keys=taken,
        rows=made,
        paged=0,
        last=None,
        cursor=held.cursor,
        at_end=len(due) <= len(keys) and len(due) < rows and not missed,
        is_sweep=True,
        missed=missed,
        gone=gone,
    )


def missed_or_gone(bench: Bench, keys: Sequence[Key]) -> tuple[list[Key], list[Key]]:
    """Of deferred keys that were not obtained: those still ours, and those not any more."""
    if not keys:
        return [], []
    arguments = {**bench.arguments, **key_arrays(keys, len(bench.keyset.columns))}
    return at_places(keys, bench.conn.execute(bench.keyset.still_ours(), arguments))
