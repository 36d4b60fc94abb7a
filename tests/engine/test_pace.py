"""The pace: never above the rate in any ten seconds, close to it if asked, shut with the window."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backfill.engine.pace import BATCH_SHARE_SECONDS, Go, LocalLimiter, Pace
from backfill.hours import Shut
from backfill.job import Options
from backfill.rate import Rate
from tests.engine.factory import FakeClock
from tests.profiles import share_of_examples

MONDAY_NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PERIOD_SECONDS = 10.0
#: Where batches find nothing, or next to nothing, no time goes by; enough is seen then.
MOST_GRANTS = 3_000


def grants(
    pace: Pace,
    clock: FakeClock,
    *,
    workers: int,
    seconds: float,
    wanted: Sequence[int] = (10_000,),
    used: Sequence[float] = (1.0,),
    batch_seconds: Sequence[float] = (0.0,),
) -> list[tuple[float, int]]:
    """What several workers are granted, asking again and again: (when its batch begins, rows used).

    Args:
        wanted, used, batch_seconds: batch by batch, in turn: rows asked for, the share of the
            granted rows that the batch finds, and how long it takes.
    """
    granted: list[tuple[float, int]] = []
    free = [(0.0, worker) for worker in range(workers)]
    turn = 0
    while free[0][0] < seconds and turn < MOST_GRANTS:
        clock.seconds, worker = heapq.heappop(free)
        go = pace.before_batch(wanted[turn % len(wanted)])
        assert isinstance(go, Go)
        rows = round(go.rows * used[turn % len(used)])
        begins = clock.seconds + go.wait_seconds
        granted.append((begins, rows))
        clock.seconds = begins  # nobody asks in between: waits are longer than a call
        pace.after_batch(go.rows, rows)
        heapq.heappush(free, (begins + batch_seconds[turn % len(batch_seconds)], worker))
        turn += 1
    return granted


def most_in_a_period(granted: Sequence[tuple[float, int]]) -> int:
    """The most rows in any ten seconds; the densest begin with a grant."""
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


@settings(share_of_examples(60))
@given(
    rate=RATES,
    workers=st.integers(1, 6),
    wanted=st.lists(st.integers(1, 10_000), min_size=1, max_size=5),
    used=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=5),
    batch_seconds=st.lists(st.floats(0.0, 1.0) | st.floats(0.0, 15.0), min_size=1, max_size=5),
)
def test_no_ten_seconds_see_more_than_the_rate(
    rate: float,
    workers: int,
    wanted: list[int],
    used: list[float],
    batch_seconds: list[float],
) -> None:
    clock = FakeClock(MONDAY_NOON)
    pace = Pace(clock, Options(rate=str(Rate(rate))), limiter=LocalLimiter(clock))
    granted = grants(
        pace,
        clock,
        workers=workers,
        seconds=25.0,
        wanted=wanted,
        used=used,
        batch_seconds=batch_seconds,
    )
    assert most_in_a_period(granted) <= ceil(rate * PERIOD_SECONDS)


@settings(share_of_examples(60))
@given(rate=RATES, workers=st.integers(1, 6))
def test_workers_that_always_ask_get_nearly_all_of_the_rate(rate: float, workers: int) -> None:
    clock = FakeClock(MONDAY_NOON)
    pace = Pace(clock, Options(rate=str(Rate(rate))), limiter=LocalLimiter(clock))
    seconds = max(60.0, 100 / rate)
    granted = grants(pace, clock, workers=workers, seconds=seconds)
    began = sum(rows for at, rows in granted if at <= seconds)
    assert 0.95 * rate * seconds - 1 <= began <= rate * seconds + 1
    assert most_in_a_period(granted) <= ceil(rate * PERIOD_SECONDS)


def test_an_idle_worker_does_not_save_up_for_later() -> None:
    clock = FakeClock(MONDAY_NOON)
    pace = Pace(clock, Options(rate=str(Rate(1000.0))))
    clock.seconds = 3600.0
    at_once = 0
    while isinstance(go := pace.before_batch(50), Go) and go.wait_seconds == 0:
        at_once += go.rows
    assert 0 < at_once <= 200


def test_rows_that_were_not_used_are_given_back() -> None:
    clock = FakeClock(MONDAY_NOON)
    pace = Pace(clock, Options(rate=str(Rate(100.0))))
    for _ in range(200):
        go = pace.before_batch(20)
        assert isinstance(go, Go)
        pace.after_batch(go.rows, 0)
    last = pace.before_batch(20)
    assert isinstance(last, Go)
    assert last.wait_seconds <= 0.25


@given(rate=st.floats(0.01, 100_000.0), rows=st.integers(1, 100_000))
def test_a_batch_is_a_small_part_of_a_seconds_rate_and_never_nothing(
    rate: float, rows: int
) -> None:
    go = Pace(FakeClock(MONDAY_NOON), Options(rate=str(Rate(rate)))).before_batch(rows)
    assert isinstance(go, Go)
    assert 1 <= go.rows <= max(1, min(rows, rate * BATCH_SHARE_SECONDS))


def test_without_a_rate_nobody_waits() -> None:
    pace = Pace(FakeClock(MONDAY_NOON))
    assert pace.before_batch(100_000) == Go(100_000, 0.0)
    pace.after_batch(100_000, 5)
    assert pace.before_batch(1) == Go(1, 0.0)


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_slots_that_cannot_share_a_bucket_share_the_rate(slots: int) -> None:
    clock = FakeClock(MONDAY_NOON)
    rate = Rate(1000.0)
    everybody: list[tuple[float, int]] = []
    for _ in range(slots):
        clock.seconds = 0.0
        pace = Pace(clock, Options(rate=str(rate)), limiter=LocalLimiter(clock, share=1 / slots))
        everybody += grants(pace, clock, workers=1, seconds=30.0, wanted=[20])
    began = sum(rows for at, rows in everybody if at <= 30.0)
    assert 0.95 * 30_000 - 20 * slots <= began <= 30_000
    assert most_in_a_period(everybody) <= 10_000


def test_outside_the_window_a_batch_is_told_when_it_opens() -> None:
    clock = FakeClock(MONDAY_NOON)
    pace = Pace(clock, Options(rate="100/s", window="22:00-06:00 UTC"))
    opens = MONDAY_NOON.replace(hour=22)
    outside = "outside its window (22:00-06:00 UTC)"
    assert pace.shut() == pace.before_batch(10) == Shut(opens, outside)
    clock.sleep((opens - MONDAY_NOON).total_seconds() - 1)
    assert pace.before_batch(10) == Shut(opens, outside)
    clock.sleep(1)
    assert pace.shut() is None
    assert isinstance(pace.before_batch(10), Go)
    clock.sleep(8 * 3600)
    assert pace.before_batch(10) == Shut(opens + timedelta(days=1), outside)


def test_a_closed_window_uses_nothing_of_the_rate() -> None:
    clock = FakeClock(MONDAY_NOON)
    pace = Pace(clock, Options(rate="1/s", window="22:00-06:00 UTC"))
    for _ in range(100):
        pace.before_batch(10)
    clock.sleep(10 * 3600)
    go = pace.before_batch(10)
    assert isinstance(go, Go)
    assert go.wait_seconds <= 1.1
