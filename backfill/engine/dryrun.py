"""A dry run: batches in several places of the table, each rolled back; nothing else is written.

At each place first a few rows for people to see, before and after; then rows for measuring, in
batches that grow as a run's do. It needs no ledger, and calls none of the job's hooks but `setup`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from backfill.engine import misfits
from backfill.engine.bench import Bench
from backfill.engine.checks.estimate import Estimate
from backfill.engine.checks.scene import Matching
from backfill.engine.faults import (
    OutageError,
    RetriableError,
    RowsRefusedError,
    StopError,
)
from backfill.engine.page import SCAN_ROWS_PER_ROW
from backfill.engine.source import reading_source
from backfill.engine.telling import in_a_reason
from backfill.engine.trial import NAME, Change, Refused, Tried, try_batch
from backfill.model import Counts, Key, SlicePhase
from backfill.pg import images
from backfill.pg.slices import Slice
from backfill.rate import Rate

#: A place ends after so long, whatever it has found by then.
PLACE_SECONDS = 10.0
#: A batch that meets a lock or a time-out is tried so often.
ATTEMPTS = 3


@dataclass(slots=True, kw_only=True)
class Place:
    """What was tried at one place.

    Attributes:
        name: beginning, middle or end.
        after: the key that it begins behind; None: at the first.
        taken, written, missing, undone, seconds, wal_bytes: sums of what `Tried` says.
        problem: what ended it early, and would make a run pause or wait; empty: nothing.
    """

    name: str
    after: Key | None
    batches: int = 0
    paged: int = 0
    taken: int = 0
    written: int = 0
    missing: int = 0
    undone: int = 0
    seconds: float = 0.0
    wal_bytes: int | None = 0
    refused: list[Refused] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    problem: str = ""

    @property
    def unchanged(self) -> int:
        """Rows that the transform left as they are."""
        return max(0, self.taken - self.written - self.missing - len(self.refused))

    def add(self, tried: Tried) -> None:
        """Count a measured batch."""
        self.batches += 1
        self.paged += tried.paged
        self.taken += tried.taken
        self.written += tried.written
        self.missing += tried.missing
        self.undone += tried.undone
        self.seconds += tried.seconds
        self.refused += tried.refused
        if tried.wal_bytes is None or self.wal_bytes is None:
            self.wal_bytes = None
        else:
            self.wal_bytes += tried.wal_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What a run would do, as far as these places tell."""

    places: Sequence[Place]
    matching: Matching | None
    estimates: Sequence[Estimate]
    warnings: Sequence[str]

    @property
    def is_clean(self) -> bool:
        """No row would go into quarantine, none stays to be done, and nothing ended it early."""
        return not any(p.refused or p.undone or p.problem for p in self.places)


def dry_run(
    bench: Bench, *, rows: int, shown: int, matching: Matching | None, warnings: Sequence[str]
) -> DryRun:
    """Try a job.

    Args:
        rows: to be measured at each place, ≥ 1.
        shown: rows to be shown at each place, ≥ 0.
        matching: how many rows are the job's.
        warnings: of the preflight.
    """
    places: list[Place] = []
    try:
        found = _found(bench, rows)
    except StopError as error:
        found = []
        places.append(Place(name="beginning", after=None, problem=_would_pause(error)))
    for number, (name, after, upto) in enumerate(found):
        place = Place(name=name, after=after)
        places.append(place)
        held = _slice(number, after, upto)
        try:
            if shown:
                place.changes += _shown(bench, held, shown)
            for tried in _batches(bench, held, rows, with_changes=False):
                place.add(tried)
        except StopError as error:
            place.problem = _would_pause(error)
            break  # it would be the same anywhere
        except OutageError as error:
            place.problem = f"the run would wait: {error.reason}"
        except RetriableError as error:
            place.problem = (
                f"tried {ATTEMPTS} times in vain: {in_a_reason(error.fault, bench.secrets)}"
            )
    estimates = _estimates(bench, places, matching)
    return DryRun(
        places=places,
        matching=matching,
        estimates=estimates,
        warnings=[*warnings, *_warnings(bench, places, matching)],
    )


def _would_pause(error: StopError) -> str:
    return f"the run would pause: {error.reason}"


def _found(bench: Bench, rows: int) -> list[tuple[str, Key | None, Key]]:
    with reading_source(bench):
        misfits.check_null_first(bench)
        last = bench.reader.execute(bench.keyset.last_key(), bench.arguments).fetchone()
        if last is None:
            return []
        misfits.check_null(bench.keyset, last[0])
        return _places(bench, rows, tuple(last[0]))


def _places(bench: Bench, rows: int, last: Key) -> list[tuple[str, Key | None, Key]]:
    """Where to try: name, behind which key, up to which one.

    A small table, or one without statistics, is tried in fewer places.
    """
    begins: list[tuple[str, Key | None]] = [("beginning", None)]
    if bench.source.estimated_rows >= 3 * rows:
        begins.append(("middle", images.middle_key(bench.reader, bench.source, bench.keyset)))
        begins.append(("end", images.key_before_end(bench.reader, bench.keyset, rows=rows)))
    begins = [place for place in begins if place[0] == "beginning" or place[1] is not None]
    ends = [key for _, key in begins[1:] if key is not None]
    return [(name, after, upto) for (name, after), upto in zip(begins, [*ends, last], strict=True)]


def _slice(number: int, after: Key | None, upto: Key) -> Slice:
    return Slice(
        run=NAME,
        number=number,
        after=after,
        upto=upto,
        cursor=None,
        phase=SlicePhase.WALK,
        passes=0,
        epoch=0,
        attempts=0,
        counts=Counts(),
    )


def _shown(bench: Bench, held: Slice, rows: int) -> list[Change]:
    """Rows before and after; those that are refused are left to the measuring."""
    changes: list[Change] = []
    for tried in _batches(bench, held, rows, with_changes=True):
        refused = {one.key for one in tried.refused}
        changes += [change for change in tried.changes if change.key not in refused]
    return changes


def _batches(bench: Bench, held: Slice, rows: int, *, with_changes: bool) -> Iterator[Tried]:
    """Batches from the slice's beginning on, until so many rows were taken, as work.py does them.

    Raises:
        StopError, OutageError, RetriableError: what ended them.
    """
    bench.halving.clear()
    started, taken, refusals, attempts = bench.clock.monotonic(), 0, 0, 0
    while (
        taken < rows
        and refusals <= bench.options.quarantine_rows  # a run stops then, too
        and bench.clock.monotonic() - started < PLACE_SECONDS
    ):
        asked = bench.halving.limit(min(rows - taken, bench.sizer.rows))
        try:
            tried = try_batch(bench, held, asked, with_changes=with_changes)
        except RowsRefusedError as refused:
            bench.halving.refused(refused.rows)
            continue
        except RetriableError as error:
            attempts += 1
            if attempts >= ATTEMPTS:
                raise
            if error.timed_out:
                bench.sizer.timed_out()
            continue
        attempts = 0
        bench.halving.settled()
        if not with_changes and not bench.halving.is_active:
            bench.memory.forget()
            bench.sizer.committed(
                asked=asked, taken=tried.taken, seconds=tried.seconds, wal_bytes=tried.wal_bytes
            )
        taken += tried.taken
        refusals += len(tried.refused)
        held = replace(held, cursor=tried.cursor)
        yield tried
        if tried.at_end:
            return


def _estimates(bench: Bench, places: Sequence[Place], matching: Matching | None) -> list[Estimate]:
    """Time and WAL of the whole table, by what the places took."""
    taken = sum(place.taken for place in places)
    seconds = sum(place.seconds for place in places)
    if matching is None or not taken or seconds <= 0:
        why = "no row was measured" if matching is not None else "a lock kept us from counting"
        return [Estimate(name=name, value=None, basis=why) for name in ("seconds", "wal_bytes")]
    per_second, about = taken / seconds, "" if matching.is_exact else "about "
    basis = (
        f"{about}{matching.rows:,} rows at {per_second:,.0f} rows/s, measured with {taken:,} rows"
        " in one slot, without commits"
    )
    if matching.rows * SCAN_ROWS_PER_ROW < bench.source.estimated_rows:
        basis += "; the walk past the many rows that do not match comes on top"
    total = matching.rows / per_second
    if bench.options.rate is not None:
        rate = Rate.parse(bench.options.rate).rows_per_second
        if rate < per_second:
            total, basis = matching.rows / rate, f"at the rate {bench.options.rate}; {basis}"
    found = [Estimate(name="seconds", value=total, basis=basis)]
    wal = [place.wal_bytes for place in places]
    if None in wal:
        found.append(
            Estimate(name="wal_bytes", value=None, basis="this role may not read WAL positions")
        )
        return found
    a_row = sum(size for size in wal if size is not None) / taken
    found.append(
        Estimate(
            name="wal_bytes",
            value=a_row * matching.rows,
            basis=f"{a_row:,.0f} B a row, measured; what others wrote meanwhile is in it",
        )
    )
    return found


def _warnings(bench: Bench, places: Sequence[Place], matching: Matching | None) -> Iterator[str]:
    taken = sum(place.taken for place in places)
    undone = sum(place.undone for place in places)
    refused = sum(len(place.refused) for place in places)
    if undone:
        yield (
            f"the todo is still true of {undone:,} rows that were written: the completion check"
            " would find them, and the run would fail"
        )
    if refused and taken and matching is not None:
        expected = refused / taken * matching.rows
        budget = bench.options.quarantine_rows
        if expected > budget or refused / taken > bench.options.quarantine_share:
            yield (
                f"about {expected:,.0f} rows would go into quarantine: the run would stop at its"
                f" budget (quarantine_rows={budget},"
                f" quarantine_share={bench.options.quarantine_share:g})"
            )
