"""How fast a run may go: asked before every batch, outside any transaction (I5).

The window is asked first, then the rate. A rate is one token bucket over all workers (in Redis, see
checkpoint.py); a limiter that shares it fairly among the slots takes over while Redis is away.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from backfill.clock import Clock
from backfill.rate import Rate
from backfill.window import Window

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


@dataclass(frozen=True, slots=True)
class Closed:
    """Outside the window until `opens`."""

    opens: datetime


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
        limiter: needed with a rate.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        rate: Rate | None = None,
        limiter: Limiter | None = None,
        window: Window | None = None,
    ) -> None:
        self._clock = clock
        self._window = window
        self._per_second = rate.rows_per_second * SHARE_OF_RATE if rate is not None else None
        self._limiter = limiter or LocalLimiter(clock)

    def window_verdict(self) -> Closed | None:
        """When the window opens, if it is closed now."""
        now = self._clock.now()
        if self._window is None or self._window.is_open(now):
            return None
        return Closed(self._window.next_open(now))

    def before_batch(self, rows: int) -> Go | Closed:
        """May a batch of `rows` rows begin?"""
        if (closed := self.window_verdict()) is not None:
            return closed
        if self._per_second is None:
            return Go(rows)
        rows = max(1, min(rows, int(self._per_second * BATCH_SHARE_SECONDS)))
        return Go(rows, self._limiter.take(rows, self._per_second))

    def after_batch(self, granted: int, used: int) -> None:
        """Give back what a batch did not use."""
        if self._per_second is not None and used < granted:
            self._limiter.take(used - granted, self._per_second)
