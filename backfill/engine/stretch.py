"""A target time for batches that is stretched where it cannot be kept with any number of rows.

Where batches of the least size are late, too, it is not their rows that make them late: a commit
that waits for a distant standby, a server with too much to do. Then sizes that answered would stay
at the least, for a hundredth of the speed, and serve nobody. So the target is stretched for a while
to twice what those batches take: others wait twice as long at most, as they would by chance.

If batches of more rows take nearly as much longer, it was the rows all the same, and the target
holds again. It comes back by itself, too: what made the batches late may be over.

Pure: it is told what batches took.
"""

from __future__ import annotations

from collections import deque
from statistics import median_low

#: So many batches of a size are seen before anything follows from them.
ENOUGH = 10
#: So much longer than the least batches may batches be.
STRETCH = 2.0
#: But at most so much longer than the target; what takes more cannot be helped by sizes.
MOST = 12.0
#: The median of the least batches says that the target is out of reach from this share of it on:
#: sizes answer to slow batches, which may be twice as slow (sizing.py).
OUT_OF_REACH = 0.5
#: A stretched target comes back by so much with each batch.
RELAX = 0.998
#: Whether rows are the cause is asked of batches of so many times the least rows: one step up.
LARGER = 1.5
#: Batches that become longer by this share of what their rows became more are late by their rows.
BY_ROWS = 0.5
#: For so many batches nothing is stretched then.
PATIENCE = 200


class Stretch:
    """How far the target of one run is stretched in one process.

    Attributes:
        least_seconds: what batches of the least size took when it was stretched last.
    """

    def __init__(self) -> None:
        self.least_seconds = 0.0
        self._seen: deque[float] = deque(maxlen=ENOUGH)
        self._to = 0.0
        self._is_tried = False
        self._patience = 0

    def target(self, asked_for: float) -> float:
        """The target now, in seconds: at least what was asked for."""
        return max(asked_for, self._to)

    def saw(self, rows: int, seconds: float, *, least_rows: int, asked_for: float) -> None:
        """Learn from a batch of the size that was chosen for it, by time alone."""
        self._to *= RELAX
        self._patience = max(0, self._patience - 1)
        is_stretched = self._to > asked_for
        if is_stretched and not self._is_tried and rows >= LARGER * least_rows:
            self._try(seconds / self.least_seconds - 1.0, rows / least_rows - 1.0)
        elif not is_stretched and rows <= least_rows and not self._patience:
            self._stretch(seconds, asked_for)

    def _stretch(self, seconds: float, asked_for: float) -> None:
        usual = self._usual(seconds)
        if usual is not None and OUT_OF_REACH * asked_for < usual <= MOST / STRETCH * asked_for:
            self.least_seconds, self._to = usual, STRETCH * usual
            self._is_tried = False
            self._seen.clear()

    def _try(self, longer: float, more: float) -> None:
        """Whether the rows are the cause; asked once, of the first batches that have more."""
        share = self._usual(longer / more)
        if share is None:
            return
        self._is_tried = True
        self._seen.clear()
        if share >= BY_ROWS:
            self._to, self._patience = 0.0, PATIENCE

    def _usual(self, value: float) -> float | None:
        """The median of the newest of these values; None while there are not enough."""
        self._seen.append(value)
        return median_low(self._seen) if len(self._seen) == ENOUGH else None
