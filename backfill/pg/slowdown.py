"""A run's time for a row, against its own baseline.

The baseline is the median of the last ten minutes of work. So one slow stretch does not move it,
and a run that has become slow for good (wider rows, a cold part of the table) is measured by its
new pace after some minutes: it is never stopped for ever. Nor is one that stands still: without a
new batch there is nothing to compare, and the value is 1.
"""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import Final

#: A batch counts as one of the last ones for so long.
RECENT_SECONDS: Final = 5.0
#: Samples of the baseline, at one a second.
_BASELINE: Final = 600
_ENOUGH: Final = 10
#: The median of so many samples is the present: one slow batch is no slowdown.
_PRESENT: Final = 3


class Slowdown:
    """Remembers one run's seconds a row."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_BASELINE)

    def sample(self, seconds_a_row: float | None) -> tuple[float, str]:
        """Take a sample, None where no batch was committed lately.

        Returns:
            How many times as long as usual a row takes now, and what that says.
        """
        if seconds_a_row is None:
            return 1.0, f"no batch in the last {RECENT_SECONDS:g} s"
        self._seconds.append(seconds_a_row)
        taken = len(self._seconds)
        if taken < _ENOUGH:
            return 1.0, f"its baseline is being taken: {taken} of {_ENOUGH} samples"
        baseline = median(self._seconds)
        present = median(list(self._seconds)[-_PRESENT:])
        if baseline <= 0:
            return 1.0, ""
        return present / baseline, f"{present * 1e6:,.0f} µs a row"
