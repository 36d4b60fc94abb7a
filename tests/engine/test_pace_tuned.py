"""The pace of a run whose options or speed change while its slots wait and work."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backfill.engine.pace import LONGEST_REST_SECONDS, Pace, Wait
from backfill.job import Options
from backfill.rate import Rate
from tests.engine.factory import FakeClock
from tests.engine.pacing import (
    LIMIT_SECONDS,
    MONDAY_NOON,
    PERIOD_SECONDS,
    RATES,
    Shared,
    go_after_waiting,
)
from tests.profiles import share_of_examples


@settings(share_of_examples(60))
@given(
    workers=st.integers(1, 4),
    batch_seconds=st.floats(0.01, 0.5),
    used=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=3),
    tunes=st.lists(
        st.tuples(
            st.none() | RATES,  # the rate
            st.sampled_from([1.0, 0.5, 0.25, 0.05]),  # the speed
            st.floats(0.1, 1.0),  # the duty
            st.sampled_from([None, "11:00-13:00 UTC", "Sun", "22:00-06:00 UTC"]),  # the window
            st.floats(0.1, 30.0),  # how long it holds
        ),
        min_size=1,
        max_size=6,
    ),
)
def test_whatever_is_changed_when_no_limit_is_exceeded_and_work_goes_on_when_all_is_well(
    workers: int,
    batch_seconds: float,
    used: list[float],
    tunes: list[tuple[float | None, float, float, str | None, float]],
) -> None:
    run = Shared(workers, Options())
    for rate, speed, duty, window, seconds in tunes:
        text = None if rate is None else str(Rate(rate))
        run.tune(Options(rate=text, duty=duty, window=window), speed)
        run.work(seconds, batch_seconds, used=used)
    for at, _ in run.granted:
        limit = run.highest_limit(at, at + PERIOD_SECONDS)
        if limit is not None:
            inside = sum(r for when, r in run.granted if at <= when < at + PERIOD_SECONDS)
            assert inside <= ceil(limit * LIMIT_SECONDS)
    # all is well again: at 100 rows/s a batch begins within moments, whatever was owed before
    run.tune(Options(rate="100/s"), 1.0)
    before = len(run.granted)
    run.work(LONGEST_REST_SECONDS + 60.0, 0.01)
    assert len(run.granted) > before


def test_a_batch_that_waits_for_a_slow_rate_begins_when_the_rate_is_raised() -> None:
    run = Shared(3, Options(rate="1/h"))
    run.work(1.0, 0.01)
    assert not run.granted
    run.tune(Options(rate="100/s"), 1.0)
    run.work(1.0, 0.01)
    assert 50 <= sum(rows for _, rows in run.granted) <= 110


def test_rows_that_are_waited_for_at_a_high_rate_are_few_at_the_low_one() -> None:
    clock = FakeClock(MONDAY_NOON)
    pace = Pace(clock, Options(rate="10000/s"))
    while not isinstance(pace.before_batch(10_000), Wait):
        pass
    pace.tune(Options(rate="8/s"), speed=1.0)
    assert go_after_waiting(pace, clock, 10_000).rows <= 2


def test_signals_slow_a_rate_down_and_say_so() -> None:
    clock = FakeClock(MONDAY_NOON)
    pace = Pace(clock, Options(rate="1000/s"))
    pace.tune(Options(rate="1000/s"), speed=0.25)
    rows = 0
    while clock.seconds < 20:
        rows += go_after_waiting(pace, clock, 10_000).rows
    assert rows == pytest.approx(5_000, rel=0.05)
    while not isinstance(step := pace.before_batch(10), Wait):
        pass
    assert step.reason == "its rate of 1000/s; signals slow it to 25%"
