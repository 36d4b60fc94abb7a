"""What a run will cost, and how each number was got. Estimates, not measurements.

WAL and disk follow from the size of a row and from what PostgreSQL writes beside it. The constants
are sizes of its records (access/heapam_xlog.h, access/nbtxlog.h) with their headers, rounded up;
for a table of 1,000,000 rows of 120 B with two indexes the sum is 630 B a row, and 707 B were
measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from backfill.engine.checks.runs import Before
from backfill.engine.checks.scene import Effect, Matching, Scene
from backfill.engine.checks.storage import hindering_indexes
from backfill.rate import Rate

#: WAL for locking a row, and for the header of the record that writes it.
LOCK_BYTES = 60
RECORD_BYTES = 60
#: WAL for a new entry of an index.
INDEX_BYTES = 90
#: With more free space than this on its pages, most updates of unindexed columns are heap-only.
HOT_FILLFACTOR = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One number.

    Attributes:
        name: rows, seconds, wal_bytes, dead_rows or disk_bytes.
        value: None: not known.
        basis: how it was got, or why it is not known.
    """

    name: str
    value: float | None
    basis: str


def estimates(scene: Scene, *, before: Before | None) -> list[Estimate]:
    """Rows, time, WAL, dead rows and growth of the disk.

    Args:
        before: how fast the job was when it was done last.
    """
    return [
        _rows(scene.matching),
        _seconds(scene, before),
        _wal(scene),
        _dead(scene),
        _disk(scene),
    ]


def _rows(matching: Matching | None) -> Estimate:
    if matching is None:
        return Estimate(name="rows", value=None, basis="a lock on the table kept us from asking")
    basis = "counted" if matching.is_exact else "the planner's estimate, from statistics"
    return Estimate(name="rows", value=matching.rows, basis=basis)


def _seconds(scene: Scene, before: Before | None) -> Estimate:
    rates: list[tuple[float, str]] = []
    if scene.options.rate is not None:
        rate = Rate.parse(scene.options.rate)
        rates.append((rate.rows_per_second, f"at the rate {rate}, if that is reached"))
    if before is not None:
        rates.append(
            (
                before.rows_per_second,
                f"at {before.rows_per_second:,.0f} rows/s, as fast as run {before.run} was",
            )
        )
    if scene.matching is None or not rates:
        return Estimate(
            name="seconds",
            value=None,
            basis="no rate is known: --rate states one, `backfill dry-run` measures one",
        )
    slowest, basis = min(rates)
    return Estimate(
        name="seconds",
        value=scene.matching.rows / slowest,
        basis=f"{basis}; hours in which it may not work are not counted",
    )


_NOTHING = "Call writes into none of the tables"


def _wal(scene: Scene) -> Estimate:
    if not scene.effects:
        return Estimate(name="wal_bytes", value=0, basis=_NOTHING)
    rows = scene.matching.rows if scene.matching is not None else None
    parts = [_wal_of(scene, effect) for effect in scene.effects]
    if rows is None or any(part is None for part in parts):
        return Estimate(name="wal_bytes", value=None, basis="rows or their size are not known")
    a_row = sum(part for part in parts if part is not None)
    images = ""
    if (
        scene.server.full_page_writes
        and scene.source.storage.rows >= 1
        and scene.subject.writer.locks_rows
    ):
        touched = scene.source.storage.heap_bytes / scene.source.storage.rows
        a_row += touched
        images = ", and each page once as a whole after a checkpoint (more often in a long run)"
    return Estimate(
        name="wal_bytes",
        value=rows * a_row,
        basis=f"{a_row:,.0f} B a row: its size, records' headers, its lock, entries of indexes"
        f"{images}; right within a half; `backfill dry-run` measures it",
    )


def _wal_of(scene: Scene, effect: Effect) -> float | None:
    if "DELETE" in effect.events:
        return LOCK_BYTES + RECORD_BYTES
    size = _row_bytes(scene, effect)
    if size is None:
        return None
    indexes = 0 if _is_hot(effect) else len(effect.table.indexes)
    return LOCK_BYTES + RECORD_BYTES + size + INDEX_BYTES * indexes


def _row_bytes(scene: Scene, effect: Effect) -> int | None:
    """Of a row that is written; a new table's is taken to be like the source's."""
    return effect.table.row_bytes or scene.source.row_bytes


def _is_hot(effect: Effect) -> bool:
    return (
        list(effect.events) == ["UPDATE"]
        and effect.columns is not None
        and effect.table.storage.fillfactor <= HOT_FILLFACTOR
        and not hindering_indexes(effect.table, tuple(effect.columns))
    )


def _dead(scene: Scene) -> Estimate:
    if not scene.effects:
        return Estimate(name="dead_rows", value=0, basis=_NOTHING)
    if scene.matching is None:
        return Estimate(name="dead_rows", value=None, basis="the rows are not known")
    leaves = any(list(effect.events) != ["INSERT"] for effect in scene.effects)
    return Estimate(
        name="dead_rows",
        value=scene.matching.rows if leaves else 0,
        basis="one version of each row that is changed or deleted, until VACUUM clears it away"
        if leaves
        else "rows are added only",
    )


def _disk(scene: Scene) -> Estimate:
    if not scene.effects:
        return Estimate(name="disk_bytes", value=0, basis=_NOTHING)
    if scene.matching is None:
        return Estimate(name="disk_bytes", value=None, basis="the rows are not known")
    if all("DELETE" in effect.events for effect in scene.effects):
        return Estimate(
            name="disk_bytes",
            value=0,
            basis="deleted rows leave space for new ones; the files do not shrink",
        )
    sizes = list(_growth(scene))
    if any(size is None for size in sizes):
        return Estimate(name="disk_bytes", value=None, basis="the size of a row is not known")
    a_row = sum(size for size in sizes if size is not None)
    updates = any("UPDATE" in effect.events for effect in scene.effects)
    return Estimate(
        name="disk_bytes",
        value=scene.matching.rows * a_row,
        basis=f"{a_row:,.0f} B a row, heap and indexes"
        + (", at most: what VACUUM clears away meanwhile is used again" if updates else "")
        + "; WAL is not in it",
    )


def _growth(scene: Scene) -> Iterator[float | None]:
    for effect in scene.effects:
        if "DELETE" in effect.events:
            continue
        size = _row_bytes(scene, effect)
        if size is None:
            yield None
            continue
        entries = 0.0 if _is_hot(effect) else _entry_bytes(effect)
        yield size + entries


def _entry_bytes(effect: Effect) -> float:
    """Of a row's entries in all indexes, by their size now; of an empty table by the least size."""
    rows = effect.table.storage.rows
    if rows >= 1000:
        return sum(index.size_bytes for index in effect.table.indexes) / rows
    return 24.0 * len(effect.table.indexes)


def told_bytes(value: float) -> str:
    """`1.2 GB`, in units of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def by_name(found: Sequence[Estimate]) -> dict[str, Estimate]:
    """The estimates by their names."""
    return {estimate.name: estimate for estimate in found}
