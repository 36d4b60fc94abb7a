"""The pace: never above the rate in any ten seconds, close to it if asked, shut with the window."""

from __future__ import annotations

from datetime import timedelta
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backfill.engine.pace import (
    ASK_SECONDS,
    BATCH_SHARE_SECONDS,
    LONGEST_REST_SECONDS,
    SHARE_OF_RATE,
    Go,
    LocalLimiter,
    Pace,
    Wait,
)
from backfill.hours import Shut
from backfill.job import Options
from backfill.rate import Rate
from tests.engine.factory import FakeClock
from tests.engine.pacing import (
    LIMIT_SECONDS,
    MONDAY_NOON,
    RATES,
    go_after_waiting,
    grants,
    most_in_a_period,
    paces_of,
    rated,
)
from tests.profiles import share_of_examples


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
    granted = grants(
        paces_of(clock, rated(rate, workers=workers)),
        clock,
        seconds=25.0,
        wanted=wanted,
        used=used,
        batch_seconds=batch_seconds,
    )
    assert most_in_a_period(granted) <= ceil(rate * LIMIT_SECONDS)


@pytest.mark.parametrize("workers", [1, 2, 6])
@pytest.mark.parametrize("rate", [0.7, 5.0, 30.0, 79.0, 500.0, 8_000.0])
def test_a_full_bucket_and_all_that_can_come_back_stay_within_the_rate(
    rate: float, workers: int
) -> None:
    """The worst of it: all slots have begun, the bucket is full again, then all give back."""
    clock = FakeClock(MONDAY_NOON)
    first, *others = paces_of(clock, rated(rate, workers=workers))
    in_hand = [(pace, go_after_waiting(pace, clock, 10_000).rows) for pace in others]
    clock.sleep(60.0)
    granted: list[tuple[float, int]] = []

    def go_on(until: float) -> None:
        while clock.seconds <= until:
            step = first.before_batch(10_000)
            if isinstance(step, Go):
                granted.append((clock.seconds, step.rows))
                first.after_batch(step.rows, step.rows)
            elif clock.seconds == until:
                return
            else:
                assert isinstance(step, Wait)
                clock.seconds = min(clock.seconds + step.seconds, until)

    go_on(clock.seconds)
    for pace, rows in in_hand:
        pace.after_batch(rows, 0)
        go_on(clock.seconds)
    go_on(clock.seconds + 15.0)
    assert most_in_a_period(granted) <= ceil(rate * LIMIT_SECONDS)


@settings(share_of_examples(60))
@given(
    rate=RATES,
    workers=st.integers(1, 6),
    used=st.lists(st.floats(0.5, 1.0), min_size=1, max_size=5),
    batch_seconds=st.floats(0.0, 0.02),
)
def test_workers_that_always_ask_get_nearly_all_of_the_rate(
    rate: float, workers: int, used: list[float], batch_seconds: float
) -> None:
    clock = FakeClock(MONDAY_NOON)
    if rate * SHARE_OF_RATE * BATCH_SHARE_SECONDS < 2 * workers:
        used = [1.0]  # half of a row is none: all pages would be empty
    seconds = min(max(20.0, 100 / rate), 2_000.0)
    granted = grants(
        paces_of(clock, rated(rate, workers=workers)),
        clock,
        seconds=seconds,
        used=used,
        batch_seconds=[batch_seconds],
    )
    lasted = min(seconds, granted[-1][0])
    began = sum(rows for _, rows in granted)
    assert 0.95 * rate * lasted - 1 <= began <= rate * lasted + 1
    assert most_in_a_period(granted) <= ceil(rate * LIMIT_SECONDS)


def test_an_idle_worker_does_not_save_up_for_later() -> None:
    clock = FakeClock(MONDAY_NOON)
    pace = Pace(clock, Options(rate=str(Rate(1000.0))))
    clock.seconds = 3600.0
    at_once = 0
    while isinstance(go := pace.before_batch(50), Go):
        at_once += go.rows
    assert 0 < at_once <= 200


def test_rows_that_were_not_used_are_given_back() -> None:
    clock = FakeClock(MONDAY_NOON)
    pace = Pace(clock, Options(rate=str(Rate(100.0))))
    for _ in range(200):
        granted = go_after_waiting(pace, clock, 20)
        pace.after_batch(granted.rows, 0)
    before = clock.seconds
    go_after_waiting(pace, clock, 20)
    assert clock.seconds - before <= 0.25


@pytest.mark.parametrize("workers", [1, 4])
def test_an_empty_page_of_a_very_slow_run_costs_the_time_of_a_row(workers: int) -> None:
    clock = FakeClock(MONDAY_NOON)
    paces = paces_of(clock, rated(1.0, workers=workers))
    granted = grants(paces, clock, seconds=60.5, used=[0.0])
    assert len(granted) == int(60.5 * SHARE_OF_RATE)


def test_who_waited_and_began_nothing_has_used_nothing() -> None:
    """A task whose time is over while it waits leaves the row to whoever asks next."""
    clock = FakeClock(MONDAY_NOON)
    paces = paces_of(clock, rated(1.0, workers=4))
    for pace in paces * 25:
        assert isinstance(pace.before_batch(10), Wait)
    step = paces[0].before_batch(10)
    assert isinstance(step, Wait)
    assert step.seconds <= 1.1


def test_slots_that_wait_do_not_ask_for_every_row_that_comes() -> None:
    clock = FakeClock(MONDAY_NOON)
    (pace,) = paces_of(clock, rated(50_000.0))
    while isinstance(step := pace.before_batch(1), Go):
        pass
    assert isinstance(step, Wait)
    assert step.seconds == ASK_SECONDS


@given(rate=st.floats(0.01, 100_000.0), rows=st.integers(1, 100_000))
def test_a_batch_is_a_small_part_of_a_seconds_rate_and_never_nothing(
    rate: float, rows: int
) -> None:
    clock = FakeClock(MONDAY_NOON)
    go = go_after_waiting(Pace(clock, Options(rate=str(Rate(rate)))), clock, rows)
    assert 1 <= go.rows <= max(1, min(rows, rate * BATCH_SHARE_SECONDS))


def test_without_a_rate_nobody_waits() -> None:
    pace = Pace(FakeClock(MONDAY_NOON))
    assert pace.before_batch(100_000) == Go(100_000)
    pace.after_batch(100_000, 5, seconds=1.0)
    assert pace.before_batch(1) == Go(1)


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_slots_that_cannot_share_a_bucket_share_the_rate(slots: int) -> None:
    clock = FakeClock(MONDAY_NOON)
    rate = Rate(1000.0)
    everybody: list[tuple[float, int]] = []
    for _ in range(slots):
        clock.seconds = 0.0
        pace = Pace(clock, Options(rate=str(rate)), limiter=LocalLimiter(clock, share=1 / slots))
        everybody += grants([pace], clock, seconds=30.0, wanted=[20])
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
    before = clock.seconds
    go_after_waiting(pace, clock, 10)
    assert clock.seconds - before <= 1.1


# --- duty and speed ------------------------------------------------------------------------------


@given(
    duty=st.floats(0.01, 1.0),
    speed=st.floats(0.01, 1.0),
    batches=st.lists(st.floats(0.0, 1.0), min_size=5, max_size=30),
)
def test_a_slot_rests_after_a_batch_as_duty_and_speed_say(
    duty: float, speed: float, batches: list[float]
) -> None:
    clock = FakeClock(MONDAY_NOON)
    options = Options(duty=duty)
    pace = Pace(clock, options)
    pace.tune(options, speed=speed)
    for seconds in batches:
        go_after_waiting(pace, clock, 100)
        clock.sleep(seconds)
        pace.after_batch(100, 100, seconds=seconds)
        ended = clock.seconds
        go_after_waiting(pace, clock, 100)
        rest = min(LONGEST_REST_SECONDS, seconds * (1 / (duty * speed) - 1))
        assert clock.seconds - ended == pytest.approx(rest, abs=1e-5)


def test_a_rest_is_as_long_as_the_options_say_that_hold_now() -> None:
    clock = FakeClock(MONDAY_NOON)
    pace = Pace(clock, Options(duty=0.01))
    pace.after_batch(100, 100, seconds=1.0)
    assert isinstance(pace.before_batch(100), Wait)
    pace.tune(Options(), speed=1.0)
    assert pace.before_batch(100) == Go(100)
    pace.tune(Options(), speed=0.5)
    assert pace.before_batch(100) == Wait(1.0, "signals slow it to 50%")
