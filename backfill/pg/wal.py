"""Where the primary's WAL stood when: what lags in seconds and rates are told from.

A standby's lag is the time since the primary's WAL passed the position that the standby has
replayed. Told like this it needs no clock but ours; it is zero when the primary is idle, where the
age of the last replayed transaction grows; and it grows when the standby is cut off, where
PostgreSQL's `replay_lag` stands still until the next word from the standby.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import itemgetter
from typing import Final

#: Samples kept: over an hour at one a second, more than a threshold that anybody would set.
_MOST: Final = 4_096
#: A rate is told over so many seconds: one second alone jumps with every checkpoint.
RATE_SECONDS: Final = 5.0
#: Between samples further apart nothing is told: while somebody else sampled, the WAL may have
#: stood still and then grown at once.
GAP_SECONDS: Final = 30.0


class WalHistory:
    """The primary's WAL positions, in bytes, by the time in seconds at which they were read."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, int]] = []

    @property
    def latest(self) -> int | None:
        """The newest position; None before the first."""
        return self._samples[-1][1] if self._samples else None

    def record(self, at: float, position: int) -> None:
        """Add a sample, at a later time than all before.

        A position that goes back belongs to another server, or to a restored one: what was known
        is of no use then. So it is after a gap.
        """
        if self._samples:
            last_at, last = self._samples[-1]
            if position < last or at - last_at > GAP_SECONDS:
                self._samples.clear()
        self._samples.append((at, position))
        if len(self._samples) >= 2 * _MOST:
            del self._samples[:_MOST]

    def lag_seconds(self, position: int, now: float) -> float | None:
        """How long ago the primary's WAL passed this position; 0 where it has not.

        Between two samples the WAL is taken to have grown evenly.

        Returns:
            None: it passed it before the first sample, and nobody here knows when.
        """
        after = bisect_right(self._samples, position, key=itemgetter(1))
        if after == 0:
            return None
        if after == len(self._samples):
            return 0.0
        (before_at, before), (after_at, passed) = self._samples[after - 1 : after + 1]
        share = (position - before) / (passed - before)
        return max(0.0, now - (before_at + (after_at - before_at) * share))

    def known_seconds(self, now: float) -> float:
        """How far back the samples go."""
        return now - self._samples[0][0] if self._samples else 0.0

    def bytes_per_second(self) -> float | None:
        """The WAL written over the last seconds; None where fewer than two samples are recent."""
        if not self._samples:
            return None
        newest_at, newest = self._samples[-1]
        first = bisect_right(self._samples, newest_at - RATE_SECONDS, key=itemgetter(0))
        oldest_at, oldest = self._samples[min(first, len(self._samples) - 1)]
        return (newest - oldest) / (newest_at - oldest_at) if newest_at > oldest_at else None
