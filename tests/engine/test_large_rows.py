"""Rows of a megabyte, in batches whose size nobody has chosen: what one holds stays bounded."""

from __future__ import annotations

from typing import ClassVar

from backfill.job import Job, Options, Row, Table, Update
from backfill.model import BatchInfo, Counts
from tests.engine.factory import Worksite

MEGABYTE = 1024 * 1024
ROWS = 48


class Swap(Job):
    """Reads a megabyte of each row, and writes one."""

    source = Table("t", columns=["big", "n"])
    target = Update("big", "n")
    options = Options(
        slice_rows=16,
        concurrency=1,
        min_batch_rows=1,
        target_batch_seconds=0.5,
        max_batch_wal_bytes=4 * MEGABYTE,
    )
    taken: ClassVar[list[int]] = []

    def transform(self, row: Row) -> dict[str, object]:
        return {"big": row.big.swapcase(), "n": row.n + 1}

    def after_batch(self, batch: BatchInfo) -> None:
        self.taken.append(batch.counts.paged)


def test_rows_of_a_megabyte_make_batches_of_a_few(site: Worksite) -> None:
    """The first batch knows nothing yet and takes what is in its slice; then the WAL counts."""
    site.execute(
        "CREATE TABLE t (id int PRIMARY KEY, big text, n int NOT NULL DEFAULT 0);"
        " ALTER TABLE t ALTER big SET STORAGE external;"
    )
    site.execute(
        "INSERT INTO t SELECT i, repeat('x', %s), 0 FROM generate_series(1, %s) i", MEGABYTE, ROWS
    )
    Swap.taken.clear()
    done = site.run(Swap)
    assert done.state == "succeeded", done.pauses
    assert done.counts == Counts(paged=ROWS, written=ROWS)
    assert site.rows("SELECT n, left(big, 1), length(big), count(*) FROM t GROUP BY 1, 2, 3") == [
        (1, "X", MEGABYTE, ROWS)
    ]
    first, *later = Swap.taken
    assert first <= 16
    # the median of what rows wrote, of which each is a little more than a megabyte
    assert max(later) <= 4, Swap.taken
    assert len(later) >= 8
