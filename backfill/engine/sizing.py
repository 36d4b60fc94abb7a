"""How many rows a batch takes.

With `batch_rows="auto"` the size follows a target time, because a batch's length is what the rows
it meets have to wait (measured: docs/how-it-works.md), and a budget of WAL, because what a batch
writes must go through to the replicas. Nine of ten batches should keep to the target: the estimate
is the 90th percentile of what a row took in recent batches, so that one quick or slow batch changes
nothing. It counts for twice the median at most: a busy server makes batches late whatever their
size, and sizes that answered that shrank to a few rows (to 1/30 of the speed at a target of
0.01 s on two busy cores). Steps up are small; a batch far over the target cuts the size at once.
Where even batches of the least size are late, the target is stretched (stretch.py).

Pure: it is told what batches took, and says what follows and why.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median_low

from backfill.engine.stretch import Stretch
from backfill.job import Options

FIRST_ROWS = 100
#: The largest step up, and the cut after a batch five times over the target.
GROWTH = 1.5
FAR_OVER = 5.0
CUT = 10
#: Batches that are remembered; with fewer than ENOUGH the slowest of them counts.
RECENT = 20
ENOUGH = 10
#: So much slower than the median may the rows be that the size answers to.
SLOWER = 2.0
#: A page with a smaller share of the rows asked for is a slice's end: mostly what a batch costs
#: without its rows.
WHOLE_SHARE = 0.5
#: Larger changes are worth a line of the log at its usual level.
WORTH_TELLING = 0.1


@dataclass(frozen=True, slots=True)
class Resized:
    """The size has changed, and why."""

    was: int
    rows: int
    reason: str

    @property
    def is_worth_telling(self) -> bool:
        """True for a change of more than a tenth."""
        return abs(self.rows - self.was) > WORTH_TELLING * self.was


class BatchSizer:
    """Chooses the next batch's size from the ones before.

    Args:
        options: the run's: `batch_rows`, and for "auto" its target, bounds and budget of WAL.
    """

    def __init__(self, options: Options) -> None:
        self._seconds_per_row: deque[float] = deque(maxlen=RECENT)
        self._wal_per_row: deque[float] = deque(maxlen=RECENT)
        self._stretch = Stretch()
        self._options = options
        self._rows = self._bounded(FIRST_ROWS)

    @property
    def rows(self) -> int:
        """The size of the next batch."""
        return self._rows

    def tune(self, options: Options) -> Resized | None:
        """Go on under other options; what was learnt of the rows stays."""
        was_fixed = self._fixed
        self._options = options
        if self._fixed is not None and self._fixed == was_fixed:
            return None  # after a time-out it may be smaller, and grows again by itself
        return self._set(self._bounded(self._rows), "its options were changed")

    def committed(
        self, *, asked: int, taken: int, seconds: float, wal_bytes: int | None = None
    ) -> Resized | None:
        """Learn from a batch.

        Args:
            asked: rows that it might take; ≥ 1.
            taken: rows that it locked; fewer at a slice's end, or where the scope is sparse.
            wal_bytes: what the server wrote meanwhile, for whomever; None: not known.
        """
        if asked == self._rows and self._fixed is None:
            self._stretch.saw(
                asked,
                seconds,
                least_rows=self._options.min_batch_rows,
                asked_for=self._options.target_batch_seconds,
            )
        target = self._target
        # a slow page teaches something even without rows: it looked for them
        if taken >= WHOLE_SHARE * asked or seconds > target:
            self._seconds_per_row.append(seconds / asked)
        # few rows are believed where they alone were too much: a megabyte each, cut short by time
        if wal_bytes is not None and taken:
            over = wal_bytes > self._options.max_batch_wal_bytes
            if over or taken >= WHOLE_SHARE * asked:
                self._wal_per_row.append(wal_bytes / taken)
        # only a batch that was large shows that a larger one may be tried
        most = max(self._rows, self._rows + 1 if taken >= self._rows else 0, int(taken * GROWTH))
        if self._fixed is not None:
            return self._set(min(self._fixed, most), "it grows again after a time-out")
        if seconds > FAR_OVER * target:
            cut = self._within(min(self._rows, asked) // CUT)
            return self._set(
                min(self._rows, cut), f"a batch took {seconds:.3g} s, {FAR_OVER:g} times the target"
            )
        rows, reason = self._allowed()
        return self._set(self._within(min(rows, most)), reason)

    def timed_out(self) -> Resized | None:
        """A batch ran into a time-out: go on with a tenth, also of a fixed size, and grow again."""
        self._seconds_per_row.clear()
        return self._set(max(1, self._rows // CUT), "a batch ran into a time-out")

    @property
    def _fixed(self) -> int | None:
        rows = self._options.batch_rows
        return None if rows == "auto" else rows

    def _allowed(self) -> tuple[float, str]:
        """The size that target and budget allow, and which of them it is that counts."""
        by_time = float(self._rows)
        if self._seconds_per_row:
            slow = self._slow_seconds_per_row()
            by_time = self._target / max(slow, 1e-9)
        if self._wal_per_row:
            usual = median_low(self._wal_per_row)
            by_wal = self._options.max_batch_wal_bytes / max(usual, 1e-9)
            if by_wal < by_time:
                return by_wal, f"its WAL stays within {self._options.max_batch_wal_bytes:,} bytes"
        if self._target > self._options.target_batch_seconds:
            return by_time, f"even the least batches take {self._stretch.least_seconds:.3g} s"
        return by_time, f"nine of ten stay within {self._target:g} s"

    @property
    def _target(self) -> float:
        """The target now, in seconds."""
        return self._stretch.target(self._options.target_batch_seconds)

    def _slow_seconds_per_row(self) -> float:
        """What a row takes in a slow batch."""
        recent = list(self._seconds_per_row)
        if len(recent) < ENOUGH:
            return max(recent)
        # of fewer batches, so that rows that have become slower are believed soon
        usual = median_low(recent[-ENOUGH:])
        if self._target > self._options.target_batch_seconds:
            return usual  # the stretched target has room for slow batches
        return min(percentile(recent, 0.9), SLOWER * usual)

    def _within(self, rows: float) -> int:
        """Within the bounds; after time-outs the size may be below the least, and grows from it."""
        least = min(self._options.min_batch_rows, self._rows)
        return int(min(self._options.max_batch_rows, max(least, rows)))

    def _bounded(self, rows: int) -> int:
        """Within the bounds, whatever was before."""
        if self._fixed is not None:
            return self._fixed
        return min(self._options.max_batch_rows, max(self._options.min_batch_rows, rows))

    def _set(self, rows: int, reason: str) -> Resized | None:
        was, self._rows = self._rows, rows
        return None if rows == was else Resized(was, rows, reason)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so great a share of them does not exceed (nearest rank)."""
    return sorted(values)[max(0, ceil(len(values) * share) - 1)]
