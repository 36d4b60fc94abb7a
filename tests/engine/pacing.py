"""Slots that ask for their next batch, by a clock of the test's own: what the rate lets go when."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import strategies as st

from backfill.engine.pace import COMMIT_SECONDS, Go, LocalLimiter, Pace, Wait
from backfill.job import Options
from backfill.rate import Rate
from tests.engine.factory import FakeClock

MONDAY_NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
#: Batches that begin in so much time may all commit within ten seconds.
PERIOD_SECONDS = 10.0 + COMMIT_SECONDS
#: The limit's own seconds.
LIMIT_SECONDS = 10.0
#: Where batches find nothing, or next to nothing, no time goes by; enough is seen then.
MOST_GRANTS = 3_000


def rated(rate: float, *, workers: int = 1) -> Options:
    """Options of a run with so many slots."""
    return Options(rate=str(Rate(rate)), concurrency=workers)


def paces_of(clock: FakeClock, options: Options) -> list[Pace]:
    """One for each slot, with one bucket for all."""
    limiter = LocalLimiter(clock)
    return [Pace(clock, options, limiter=limiter) for _ in range(options.concurrency)]


def go_after_waiting(pace: Pace, clock: FakeClock, rows: int) -> Go:
    """Ask until a batch may begin; the clock goes on meanwhile."""
    while isinstance(step := pace.before_batch(rows), Wait):
        assert step.reason
        clock.sleep(max(step.seconds, 1e-6))
    assert isinstance(step, Go)
    return step


def grants(
    paces: Sequence[Pace],
    clock: FakeClock,
    *,
    seconds: float,
    wanted: Sequence[int] = (10_000,),
    used: Sequence[float] = (1.0,),
    batch_seconds: Sequence[float] = (0.0,),
) -> list[tuple[float, int]]:
    """What several workers are granted, asking again and again: (when its batch begins, rows used).

    Args:
        wanted, used, batch_seconds: batch by batch, in turn: rows asked for, the share of the
            granted rows that the batch finds, and how long it takes; only then is given back.
    """
    granted: list[tuple[float, int]] = []
    in_hand: dict[int, tuple[int, int]] = {}
    free = [(0.0, worker) for worker in range(len(paces))]
    turn = 0
    while free[0][0] < seconds and turn < MOST_GRANTS:
        clock.seconds, worker = heapq.heappop(free)
        if worker in in_hand:
            paces[worker].after_batch(*in_hand.pop(worker))
        step = paces[worker].before_batch(wanted[turn % len(wanted)])
        if isinstance(step, Wait):
            assert step.reason
            heapq.heappush(free, (clock.seconds + max(step.seconds, 1e-6), worker))
            continue
        assert isinstance(step, Go)
        rows = round(step.rows * used[turn % len(used)])
        granted.append((clock.seconds, rows))
        in_hand[worker] = step.rows, rows
        heapq.heappush(free, (clock.seconds + batch_seconds[turn % len(batch_seconds)], worker))
        turn += 1
    return granted


def most_in_a_period(granted: Sequence[tuple[float, int]]) -> int:
    """The most rows in any PERIOD_SECONDS; the densest begin with a grant."""
    ordered = sorted(granted)
    most = inside = first = 0
    for at, rows in ordered:
        inside += rows
        while ordered[first][0] <= at - PERIOD_SECONDS + 1e-9:
            inside -= ordered[first][1]
            first += 1
        most = max(most, inside)
    return most


RATES = st.floats(0.05, 5.0) | st.floats(5.0, 100.0) | st.floats(100.0, 50_000.0)


class Shared:
    """A run with several workers whose options are changed for all of them at an instant.

    `limits` remembers since when which rate was allowed, in rows per second.
    """

    def __init__(self, workers: int, options: Options) -> None:
        self.clock = FakeClock(MONDAY_NOON)
        self.paces = paces_of(self.clock, replace(options, concurrency=workers))
        self.options = options
        self.limits: list[tuple[float, float | None]] = [(0.0, self._limit(1.0))]
        self.granted: list[tuple[float, int]] = []
        self._in_hand: dict[int, tuple[int, int]] = {}

    def _limit(self, speed: float) -> float | None:
        rate = self.options.rate
        return None if rate is None else Rate.parse(rate).rows_per_second * speed

    def tune(self, options: Options, speed: float) -> None:
        self.options = replace(options, concurrency=len(self.paces))
        for pace in self.paces:
            pace.tune(self.options, speed=speed)
        self.limits.append((self.clock.seconds, self._limit(speed)))

    def work(self, seconds: float, batch_seconds: float, *, used: Sequence[float] = (1.0,)) -> None:
        """Everybody asks again and again; what a batch does not find comes back when it ends."""
        began = self.clock.seconds
        free = [(began, worker) for worker in range(len(self.paces))]
        turn = 0
        while free[0][0] < began + seconds and turn < MOST_GRANTS:
            turn += 1
            self.clock.seconds, worker = heapq.heappop(free)
            pace = self.paces[worker]
            if (ended := self._in_hand.pop(worker, None)) is not None:
                pace.after_batch(*ended, seconds=batch_seconds)
            step = pace.before_batch(10_000)
            if isinstance(step, Go):
                rows = round(step.rows * used[turn % len(used)])
                self.granted.append((self.clock.seconds, rows))
                self._in_hand[worker] = step.rows, rows
                wait = batch_seconds
            else:
                assert step.reason, "a slot that waits says for what"
                wait = step.seconds if isinstance(step, Wait) else 60.0
                wait = min(wait, 3600.0)
            heapq.heappush(free, (self.clock.seconds + max(wait, 1e-4), worker))
        self.clock.seconds = max(self.clock.seconds, began + seconds)

    def highest_limit(self, since: float, until: float) -> float | None:
        """The highest that held at some time between the two; None: there was none."""
        found: list[float] = []
        for number, (at, limit) in enumerate(self.limits):
            ends = self.limits[number + 1][0] if number + 1 < len(self.limits) else float("inf")
            if at <= until and ends >= since:
                if limit is None:
                    return None
                found.append(limit)
        return max(found)
