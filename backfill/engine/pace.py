"""How fast a run may go: asked before every batch, outside any transaction (I5).

The window is asked first, then the rate. A rate is one token bucket over all workers (in Redis, see
checkpoint.py); a limiter that shares it fairly among the slots takes over while Redis is away.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

from backfill.clock import Clock
from backfill.hours import Hours, Shut
from backfill.job import Options
from backfill.rate import Rate

#: Time that an idle bucket remembers, so that a worker's own pauses are made up for.
BURST_SECONDS = 0.2
#: A batch is at most this much of a second's rate, so that a slow rate is no burst.
BATCH_SHARE_SECONDS = 0.25
#: Ten seconds can begin with a whole batch, or with what an idle bucket remembered. So that they do
#: not see more than the limit, 10.25 s of it are spread over them.
SHARE_OF_RATE = 10.0 / (10.0 + max(BURST_SECONDS, BATCH_SHARE_SECONDS))


@dataclass(frozen=True, slots=True)
class Go:
    """Take up to `rows` rows, after waiting `wait_seconds`."""

    rows: int
    wait_seconds: float = 0.0


class Limiter(Protocol):
    """A token bucket."""

    def take(self, rows: int, rows_per_second: float) -> float:
        """Take `rows` tokens and say how many seconds to wait before using them.

        A negative number gives back what was taken and not used.
        """


class LocalLimiter:
    """A token bucket within this process; used by several threads."""

    def __init__(self, clock: Clock, *, share: float = 1.0) -> None:
        self._clock = clock
        self._share = share
        self._free_at = clock.monotonic()
        self._lock = threading.Lock()

    def take(self, rows: int, rows_per_second: float) -> float:
        now = self._clock.monotonic()
        with self._lock:
            start = max(self._free_at, now - BURST_SECONDS)
            self._free_at = start + rows / (rows_per_second * self._share)
            return max(0.0, self._free_at - now)


class Pace:
    """The pace of one run, in one process.

    Args:
        options: the run's: its rate, its window, when it starts and until when it may work.
        limiter: of its rate; by default one of its own.
    """

    def __init__(
        self, clock: Clock, options: Options | None = None, *, limiter: Limiter | None = None
    ) -> None:
        self._clock = clock
        options = options or Options()
        self._hours = Hours.parse(
            window=options.window, start_at=options.start_at, until=options.until
        )
        rate = None if options.rate is None else Rate.parse(options.rate)
        self._per_second = rate.rows_per_second * SHARE_OF_RATE if rate is not None else None
        self._limiter = limiter or LocalLimiter(clock)

    def shut(self) -> Shut | None:
        """Why the run may not work at this time of day; None: it may."""
        return self._hours.shut(self._clock.now())

    def before_batch(self, rows: int) -> Go | Shut:
        """May a batch of `rows` rows begin?"""
        if (shut := self.shut()) is not None:
            return shut
        if self._per_second is None:
            return Go(rows)
        rows = max(1, min(rows, int(self._per_second * BATCH_SHARE_SECONDS)))
        return Go(rows, self._limiter.take(rows, self._per_second))

    def after_batch(self, granted: int, used: int) -> None:
        """Give back what a batch did not use."""
        if self._per_second is not None and used < granted:
            self._limiter.take(used - granted, self._per_second)
