"""How fast a run may go: asked before every batch, outside any transaction (I5).

The hours are asked first, then whether the slot has rested enough, then the rate.

- A rate is one token bucket over all workers (in Redis, see checkpoint.py); a limiter that shares
  it fairly among the slots takes over while Redis is away.
- `duty` is the share of its time that a slot spends in batches: after a batch it rests.
- `speed` is the share of its full speed at which signals let the run work (the ledger's
  `run.speed`). It multiplies both, so that a run without a rate slows down, too.

Options and speed change while it works (`tune`), and nothing is remembered of the old ones: rows
are taken from the bucket in the instant in which their batch begins. Who waits owns nothing: there
is nothing to give back when the wait ends early, and nothing to convert when the rate changes.

Why ten seconds never see more than the rate. What begins in them has come into the bucket in them,
or was in it before: at most BURST_SECONDS' worth. Besides, batches that were in hand when they
began may give rows back: all slots together at most BATCH_SHARE_SECONDS' worth, because no batch
is granted, or gives back, more than its slot's part of that. SHARE_OF_RATE leaves room for both.
Where that part is less than a row, batches are of one row, and give nothing back: an empty page of
a very slow run costs the time of a row.
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
BURST_SECONDS = 0.1
#: Where a batch's rows take longer than that to come, it remembers them, and so much more: whoever
#: asks a little late for them has not lost the time.
LATE_SECONDS = 0.05
#: The batches of all slots together are at most this much of a second's rate.
BATCH_SHARE_SECONDS = 0.05
#: Rows are taken when a batch begins; they take effect when it commits, later by so much.
COMMIT_SECONDS = 0.25
#: What is let go in 10.4 s is 10 s worth of the rate, so that no ten seconds see more than that
#: (see above, and `make bench ARGS=rate`).
SHARE_OF_RATE = 10.0 / (10.0 + BURST_SECONDS + BATCH_SHARE_SECONDS + COMMIT_SECONDS)
#: Slots that wait do not all ask for every row that comes: not before so much time.
ASK_SECONDS = 0.02
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


class Limiter(Protocol):
    """A token bucket."""

    def take(self, rows: float, rows_per_second: float) -> float:
        """Take `rows` tokens, if they are there: 0. Else nothing: seconds until they may be.

        A negative number gives back what was taken and not used.
        """

    def shared_by(self, slots: int) -> None:
        """So many slots share the rate, where each has to keep to its part by itself."""


class LocalLimiter:
    """A token bucket within this process; used by several threads."""

    def __init__(self, clock: Clock, *, share: float = 1.0) -> None:
        self._clock = clock
        self._share = share
        self._used_until = clock.monotonic()
        self._lock = threading.Lock()

    def take(self, rows: float, rows_per_second: float) -> float:
        cost = rows / (rows_per_second * self._share)
        with self._lock:
            now = self._clock.monotonic()
            used_until = max(self._used_until, now - max(BURST_SECONDS, cost + LATE_SECONDS)) + cost
            if used_until > now:
                return used_until - now
            self._used_until = used_until
            return 0.0

    def shared_by(self, slots: int) -> None:
        """All threads of this process take from this one bucket: nothing changes."""

    def keep_to(self, share: float) -> None:
        """Keep to this share of the rate from now on."""
        self._share = share

    def empty(self) -> None:
        """What has come until now was used elsewhere."""
        self._used_until = self._clock.monotonic()


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
        self._batch_ended, self._batch_seconds = clock.monotonic(), 0.0
        self.tune(options or Options(), speed=1.0)

    def tune(self, options: Options, *, speed: float) -> None:
        """Go on under these options and at this share of the full speed (0 < speed ≤ 1)."""
        self._hours = options.hours
        self._duty, self._speed, self._rate = options.duty, speed, options.rate
        self._limiter.shared_by(options.concurrency)
        self._slots = options.concurrency
        self._per_second: float | None = None
        if options.rate is not None:
            rate = Rate.parse(options.rate)
            self._per_second = rate.rows_per_second * SHARE_OF_RATE * speed

    @property
    def keeps_hours(self) -> bool:
        """There are hours in which the run may not work."""
        return self._hours != Hours()

    def shut(self) -> Shut | None:
        """Why the run may not work at this time of day; None: it may."""
        return self._hours.shut(self._clock.now())

    def before_batch(self, rows: int) -> Go | Wait | Shut:
        """May a batch of `rows` rows begin? Asked again until it may, or nobody wants it to."""
        if (shut := self.shut()) is not None:
            return shut
        rest = self._batch_ended + self._rest_seconds - self._clock.monotonic()
        if rest > 0:
            return Wait(rest, self._told(f"its duty of {self._duty:g}" if self._duty < 1 else ""))
        if self._per_second is not None:
            rows = max(1, min(rows, self._part(self._per_second)))
            if (wait := self._limiter.take(rows, self._per_second)) > 0:
                return Wait(max(wait, ASK_SECONDS), self._told(f"its rate of {self._rate}"))
        return Go(rows)

    def after_batch(self, granted: int, used: int, *, seconds: float = 0.0) -> None:
        """Give back what a batch did not use, and rest according to how long it took."""
        if self._per_second is not None:
            # of what was granted under other options, no more than these would have granted
            unused = min(granted - used, self._part(self._per_second))
            if unused > 0:
                self._limiter.take(-unused, self._per_second)
        self._batch_ended, self._batch_seconds = self._clock.monotonic(), seconds

    @property
    def _rest_seconds(self) -> float:
        """How long the slot rests after its last batch."""
        share = self._duty * self._speed
        return min(LONGEST_REST_SECONDS, self._batch_seconds * (1.0 / share - 1.0))

    def _told(self, limit: str) -> str:
        by_signals = f"signals slow it to {self._speed:.0%}" if self._speed < 1 else ""
        return "; ".join(part for part in (limit, by_signals) if part)

    def _part(self, per_second: float) -> int:
        """The rows of this slot's part in BATCH_SHARE_SECONDS; 0 where that is less than one."""
        return int(per_second * BATCH_SHARE_SECONDS / self._slots)
