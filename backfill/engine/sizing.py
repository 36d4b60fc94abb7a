"""How many rows a batch takes.

With `batch_rows="auto"` the size follows a target time, because a batch's length is what the rows
it meets have to wait (measured: docs/how-it-works.md). The estimate is the 90th percentile of the
seconds a row took in recent batches, so that one quick batch changes nothing; steps up are small,
a batch far over the target cuts the size at once.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

#: Seconds that a batch should take; see DESIGN: smaller batches cost little speed.
TARGET_SECONDS = 0.05
FIRST_ROWS = 100
MIN_ROWS = 10
MAX_ROWS = 10_000
#: The largest step up, and the cut after a batch five times over the target.
GROWTH = 1.5
FAR_OVER = 5.0
CUT = 10
RECENT = 20


class BatchSizer:
    """Chooses the next batch's size from the ones before.

    Args:
        rows: a fixed number, or "auto".
    """

    def __init__(self, rows: int | Literal["auto"]) -> None:
        self._fixed = None if rows == "auto" else rows
        self._rows = FIRST_ROWS if rows == "auto" else rows
        self._seconds_per_row: deque[float] = deque(maxlen=RECENT)

    @property
    def rows(self) -> int:
        """The size of the next batch."""
        return self._rows

    def committed(self, rows: int, seconds: float) -> None:
        """Learn from a batch of `rows` rows (those taken) that took `seconds`."""
        if rows <= 0:
            return
        self._seconds_per_row.append(seconds / rows)
        if self._fixed is not None:
            self._rows = min(self._fixed, self._largest_step)
            return
        if seconds > FAR_OVER * TARGET_SECONDS and rows > MIN_ROWS:
            self._set(rows / CUT)
            return
        ordered = sorted(self._seconds_per_row)
        slow = ordered[min(len(ordered) - 1, int(len(ordered) * 0.9))]
        self._set(min(TARGET_SECONDS / max(slow, 1e-9), self._largest_step))

    def timed_out(self) -> None:
        """A batch ran into a time-out: go on with a tenth, also of a fixed size, and grow again."""
        self._rows = max(1, self._rows // CUT)
        self._seconds_per_row.clear()

    @property
    def _largest_step(self) -> int:
        return max(self._rows + 1, int(self._rows * GROWTH))

    def _set(self, rows: float) -> None:
        # after time-outs the size may be below the least one; from there, too, steps are small
        least = min(MIN_ROWS, self._rows)
        self._rows = int(min(MAX_ROWS, max(least, rows)))
