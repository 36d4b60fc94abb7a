"""One batch that is rolled back: what it would do to its rows, how long it takes, its WAL.

The same functions as a batch's (batch.py) take, transform and write; the ledger is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg

from backfill.engine import batch
from backfill.engine.bench import Bench
from backfill.engine.faults import RowsRefusedError
from backfill.engine.optimistic import TRANSFORM_SECONDS, copied, read, take_unchanged
from backfill.engine.page import Page, page_bounds
from backfill.engine.reading import Reading
from backfill.engine.transform import Outcome
from backfill.engine.unlocked import Seen
from backfill.job import Insert
from backfill.model import Key
from backfill.pg import completion, images
from backfill.pg.connect import application_name, trial
from backfill.pg.images import Image
from backfill.pg.keyset import key_arrays
from backfill.pg.slices import Slice

#: The run's name in `application_name` and in the setting `backfill.run`.
NAME = "dry-run"
#: More keys than a page's bounds enclose.
WHOLE_PAGE = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A row before and after.

    Attributes:
        key: of the source's row; None: a row that an Insert would add, or write over.
        before, after: by column, as text; None: it is not there.
    """

    key: Key | None
    before: Image | None
    after: Image | None

    @property
    def columns(self) -> list[str]:
        """Those that differ."""
        before, after = self.before or {}, self.after or {}
        names = [*before, *(name for name in after if name not in before)]
        if self.before is None or self.after is None:
            return names
        return [name for name in names if before.get(name) != after.get(name)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A row that would go into quarantine; `message` may quote it."""

    key: Key
    sqlstate: str | None
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What a batch would have done.

    Attributes:
        cursor: how far it came; at_end: there is nothing behind it.
        paged, taken: keys on the page, and rows that were locked.
        written: keys whose write took effect; missing: whose write reported nothing.
        undone: written rows that the todo is still true of.
        seconds: for taking, transforming and writing, without the commit.
        wal_bytes: written by the server meanwhile; None: it cannot be read.
        changes: only where they were asked for.
    """

    cursor: Key | None
    at_end: bool
    paged: int
    taken: int
    written: int
    missing: int
    refused: Sequence[Refused]
    undone: int
    seconds: float
    wal_bytes: int | None
    changes: Sequence[Change]


def try_batch(bench: Bench, held: Slice, rows: int, *, with_changes: bool) -> Tried:
    """Do a batch of at most `rows` rows, and roll it back.

    Args:
        with_changes: read the rows before and after; of few rows only. What was computed for them
            is not computed again for the next batch that meets them.

    Raises:
        Interruption: as `batch.execute`.
    """
    step, name = batch.Step(bench), application_name(NAME, held.number, held.epoch)
    began = bench.clock.monotonic()
    reading = bench.reading
    try:
        # what is read without locks is transformed outside any transaction, as optimistic.py does
        seen = None if reading is None else _seen(bench, reading, held, rows)
        read_seconds = bench.clock.monotonic() - began
        with trial(bench.conn, bench.limits, name=name, run=NAME):
            wal = _wal_position(bench)
            began = bench.clock.monotonic()
            step.begin("page")
            page: Page
            outcomes: list[Outcome] | None
            if reading is None or seen is None:
                page, outcomes = batch.take(bench, held, rows, step)
            else:
                page, outcomes = take_unchanged(bench, reading, *seen)
            seconds = read_seconds + bench.clock.monotonic() - began
            looked = _Look(bench, _keys(bench, held, page)) if with_changes else None
            step.begin("write")
            began = bench.clock.monotonic()
            written, refused = batch.write_page(bench, held, page, outcomes, step)
            seconds += bench.clock.monotonic() - began
            step.begin("look")
            wal_bytes = None if wal is None else (_wal_position(bench) or wal) - wal
            undone = _undone(bench, held, page, outcomes, [key for key, _, _ in refused])
            changes = [] if looked is None else looked.changes()
    except RowsRefusedError:
        step.remember(bench)
        raise
    except psycopg.Error as error:
        step.remember(bench)
        raise batch.interruption(bench, step, error) from error
    if with_changes:
        step.remember(bench)
    return Tried(
        cursor=page.cursor,
        at_end=page.at_end,
        paged=page.paged,
        taken=page.taken,
        written=written.keys,
        missing=written.missing,
        refused=[Refused(key=k, sqlstate=s, message=m) for k, s, m in refused],
        undone=max(0, undone - written.missing),
        seconds=seconds,
        wal_bytes=wal_bytes,
        changes=changes,
    )


def _seen(bench: Bench, reading: Reading, held: Slice, rows: int) -> tuple[Seen, list[Outcome]]:
    """Rows read without locks, and what became of them; nothing else is done with them twice."""
    seen, refusal = read(bench, reading, held, rows, is_trial=True)
    if refusal is not None:
        return seen, [refusal]
    made = seen.rows(bench)
    if bench.transform is None:
        return seen, copied(bench, seen)
    if not made:
        return seen, []
    outcomes = bench.transform(
        seen.keys,
        made,
        bench.memory,
        deadline=bench.clock.monotonic() + TRANSFORM_SECONDS,
    )
    bench.memory.keep(seen.keys, made, outcomes)
    return seen.cut(held, len(outcomes)), outcomes


class _Look:
    """The rows of a page before the write, and after it."""

    def __init__(self, bench: Bench, keys: Sequence[Key]) -> None:
        self._bench, self._keys = bench, keys
        self._columns: list[str] = []
        self._before: Mapping[Key, Image] = {}
        self._is_insert = isinstance(bench.declaration.target, Insert)
        self._told: list[str] = []
        if not self._is_insert:
            self._columns = images.readable_columns(bench.conn, bench.source)
            self._before = self._images()
        else:
            self._told = images.readable_columns(bench.conn, bench.writer.table)
            # RETURNING asks for the right to SELECT
            bench.writer.returning = images.texts(self._told) if self._told else None

    def changes(self) -> list[Change]:
        """What has become of each."""
        bench = self._bench
        if self._is_insert:
            rows, bench.writer.returned, bench.writer.returning = bench.writer.returned, [], None
            return [
                Change(key=None, before=None, after=dict(zip(self._told, values, strict=True)))
                for (values,) in rows
            ]
        after = self._images()
        return [
            Change(key=key, before=self._before.get(key), after=after.get(key))
            for key in self._keys
        ]

    def _images(self) -> Mapping[Key, Image]:
        bench = self._bench
        return images.images(
            bench.conn, bench.keyset, self._columns, self._keys, arguments=bench.arguments
        )


def _keys(bench: Bench, held: Slice, page: Page) -> Sequence[Key]:
    """Of the rows taken; a page that is written by its bounds does not name them."""
    if page.keys or not page.taken:
        return page.keys
    after, bounds = page_bounds(bench, held, page)
    return images.keys_between(bench.conn, bench.keyset, after=after, bounds=bounds)


def _undone(
    bench: Bench,
    held: Slice,
    page: Page,
    outcomes: Sequence[Outcome] | None,
    refused: Sequence[Key],
) -> int:
    """How many of the rows that were to be written the todo is still true of."""
    if not bench.checks_completion or not page.taken:
        return 0
    if page.is_whole:
        after, bounds = page_bounds(bench, held, page)
        row = bench.conn.execute(
            completion.remaining(bench.keyset, after=after), {**bounds, "rows": WHOLE_PAGE}
        ).fetchone()
        return int(row[0]) if row else 0
    meant = (
        page.keys
        if outcomes is None
        else [key for key, one in zip(page.keys, outcomes, strict=False) if isinstance(one, list)]
    )
    meant = [key for key in meant if key not in set(refused)]
    if not meant:
        return 0
    values: Mapping[str, object] = {
        **bench.arguments,
        **key_arrays(meant, len(bench.keyset.columns)),
    }
    return len(bench.conn.execute(bench.keyset.still_ours(), values).fetchall())


def _wal_position(bench: Bench) -> int | None:
    if not bench.reads_wal:
        return None
    row = bench.conn.execute(
        "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint"
    ).fetchone()
    return None if row is None else int(row[0])
