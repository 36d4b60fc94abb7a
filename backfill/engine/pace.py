"""How fast a run may go: asked before every batch, outside any transaction (I5).

The hours are asked first, then whether the slot has rested enough, then the rate.

- A rate is one token bucket over all workers (in Redis, see checkpoint.py); a limiter that shares
  it fairly among the slots takes over while Redis is away.
- `duty` is the share of its time that a slot spends in batches: after a batch it rests.
- `speed` is the share of its full speed at which signals let the run work (the ledger's
  `run.speed`). It multiplies both, so that a run without a rate slows down, too.

Options and speed change while it works (`tune`); nothing is remembered of the old ones but the
rows that were granted.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Protocol

from backfill.clock import Clock
from backfill.hours import Shut
from backfill.job import Options
from backfill.rate import Rate

#: Time that an idle bucket remembers, so that a worker's own pauses are made up for.
BURST_SECONDS = 0.1
#: A batch is at most this much of a second's rate, so that a slow rate is no burst.
BATCH_SHARE_SECONDS = 0.1
#: Tokens say when a batch begins; its rows take effect when it commits, sooner or later by so much.
COMMIT_SECONDS = 0.25
#: Ten seconds can begin with a whole batch, or with what an idle bucket remembered, and see rows
#: that were let go before them. So that they do not see more than the limit, what is let go in
#: 10.35 s is 10 s worth of it (measured with four workers: `make bench ARGS=rate`).
SHARE_OF_RATE = 10.0 / (10.0 + max(BURST_SECONDS, BATCH_SHARE_SECONDS) + COMMIT_SECONDS)
#: The longest rest after a batch: one that took long for once is not paid for in minutes.
LONGEST_REST_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Go:
    """Take up to `rows` rows, now."""

    rows: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask again after at most `seconds`; `reason` says what is waited for."""

    seconds: float
    reason: str


@dataclass(slots=True)
class _Grant:
    """Tokens that were taken from the limiter, to be used from `due` (monotonic) on."""

    rows: int
    due: float


class Limiter(Protocol):
    """A token bucket."""

    def take(self, rows: float, rows_per_second: float) -> float:
        """Take `rows` tokens and say how many seconds to wait before using them.

        A negative number gives back what was taken and not used. Under a higher rate than that of
        the call before, what is waited for comes sooner; under a lower one it is worth fewer rows.
        """

    def shared_by(self, slots: int) -> None:
        """So many slots share the rate, where each has to keep to its part by itself."""


class LocalLimiter:
    """A token bucket within this process; used by several threads."""

    def __init__(self, clock: Clock, *, share: float = 1.0) -> None:
        self._clock = clock
        self._share = share
        self._free_at = clock.monotonic()
        self._per_second: float | None = None
        self._lock = threading.Lock()

    def take(self, rows: float, rows_per_second: float) -> float:
        now = self._clock.monotonic()
        per_second = rows_per_second * self._share
        with self._lock:
            was = self._per_second
            if was is not None and per_second > was and self._free_at > now:
                self._free_at = now + (self._free_at - now) * was / per_second
            self._per_second = per_second
            start = max(self._free_at, now - BURST_SECONDS)
            self._free_at = start + rows / per_second
            return max(0.0, self._free_at - now)

    def shared_by(self, slots: int) -> None:
        """All threads of this process take from this one bucket: nothing changes."""

    def keep_to(self, share: float) -> None:
        """Keep to this share of the rate from now on."""
        self._share = share


class Pace:
    """The pace of one run, for one slot; used by one thread.

    Args:
        options: the run's: its rate, its duty, its hours.
        limiter: of its rate; by default one of its own.
    """

    def __init__(
        self, clock: Clock, options: Options | None = None, *, limiter: Limiter | None = None
    ) -> None:
        self._clock = clock
        self._limiter = limiter or LocalLimiter(clock)
        self._per_second: float | None = None
        self._grant: _Grant | None = None
        self._batch_ended, self._batch_seconds = clock.monotonic(), 0.0
        self.tune(options or Options(), speed=1.0)

    def tune(self, options: Options, *, speed: float) -> None:
        """Go on under these options and at this share of the full speed (0 < speed ≤ 1)."""
        self._hours = options.hours
        self._duty, self._speed, self._rate = options.duty, speed, options.rate
        self._limiter.shared_by(options.concurrency)
        was, self._per_second = self._per_second, None
        if options.rate is not None:
            rate = Rate.parse(options.rate)
            self._per_second = rate.rows_per_second * SHARE_OF_RATE * speed
        if was is None or was == self._per_second:
            return
        if self._per_second is not None:
            self._limiter.take(0, self._per_second)  # from now on it counts so
        if self._grant is not None:
            self._rescale(self._grant, was)

    def _rescale(self, grant: _Grant, was: float) -> None:
        """What is waited for under another rate: sooner under a higher, fewer rows under a lower.

        So it is never more than the new rate allows, and limiters count in the same way.
        """
        now = self._clock.monotonic()
        if self._per_second is None:
            grant.due = now
        elif self._per_second > was:
            grant.due = now + (grant.due - now) * was / self._per_second
        elif (worth := grant.rows * self._per_second / was) >= 1:
            grant.rows = int(worth)
        else:
            grant.rows = 1
            grant.due = max(grant.due, now + self._limiter.take(1 - worth, self._per_second))

    def shut(self) -> Shut | None:
        """Why the run may not work at this time of day; None: it may."""
        return self._hours.shut(self._clock.now())

    def before_batch(self, rows: int) -> Go | Wait | Shut:
        """May a batch of `rows` rows begin? Asked again until it may, or `give_back` is called."""
        if (shut := self.shut()) is not None:
            return shut
        now = self._clock.monotonic()
        if (rest := self._batch_ended + self._rest_seconds - now) > 0:
            return Wait(rest, self._told(f"its duty of {self._duty:g}" if self._duty < 1 else ""))
        if self._grant is None:
            if self._per_second is None:
                return Go(rows)
            rows = min(rows, self._most(self._per_second))
            self._grant = _Grant(rows, now + self._limiter.take(rows, self._per_second))
        if (wait := self._grant.due - now) > 0:
            return Wait(wait, self._told(f"its rate of {self._rate}"))
        granted, self._grant = self._grant.rows, None
        return Go(granted)

    def after_batch(self, granted: int, used: int, *, seconds: float = 0.0) -> None:
        """Give back what a batch did not use, and rest according to how long it took.

        What is given back is used behind what other slots wait for already: ten seconds may see
        as much more as a batch of each of them, where pages find fewer rows than they ask for.
        """
        if self._per_second is not None and used < granted:
            self._limiter.take(used - granted, self._per_second)
        self._batch_ended, self._batch_seconds = self._clock.monotonic(), seconds

    def give_back(self) -> None:
        """No batch will begin: give back what was granted and is waited for."""
        if self._grant is not None and self._per_second is not None:
            self._limiter.take(-self._grant.rows, self._per_second)
        self._grant = None

    @property
    def _rest_seconds(self) -> float:
        """How long the slot rests after its last batch."""
        share = self._duty * self._speed
        return min(LONGEST_REST_SECONDS, self._batch_seconds * (1.0 / share - 1.0))

    def _told(self, limit: str) -> str:
        by_signals = f"signals slow it to {self._speed:.0%}" if self._speed < 1 else ""
        return "; ".join(part for part in (limit, by_signals) if part)

    @staticmethod
    def _most(per_second: float) -> int:
        return max(1, int(per_second * BATCH_SHARE_SECONDS))
