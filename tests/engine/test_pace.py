"""The pace: never above the rate in any ten seconds, close to it if asked, shut with the window."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backfill.engine.pace import (
    BATCH_SHARE_SECONDS,
    LONGEST_REST_SECONDS,
    Go,
    LocalLimiter,
    Pace,
    Wait,
)
from backfill.hours import Shut
from backfill.job import Options
from backfill.rate import Rate
from tests.engine.factory import FakeClock
from tests.profiles import share_of_examples

MONDAY_NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
PERIOD_SECONDS = 10.0
#: Where batches find nothing, or next to nothing, no time goes by; enough is seen then.
MOST_GRANTS = 3_000


def paces_of(clock: FakeClock, options: Options, *, workers: int) -> list[Pace]:
    """One for each worker, with one bucket for all."""
    limiter = LocalLimiter(clock)
    return [Pace(clock, options, limiter=limiter) for _ in range(workers)]


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
            granted rows that the batch finds, and how long it takes.
    """
    granted: list[tuple[float, int]] = []
    free = [(0.0, worker) for worker in range(len(paces))]
    turn = 0
    while free[0][0] < seconds and turn < MOST_GRANTS:
        clock.seconds, worker = heapq.heappop(free)
        step = paces[worker].before_batch(wanted[turn % len(wanted)])
        if isinstance(step, Wait):
            assert step.reason
            heapq.heappush(free, (clock.seconds + max(step.seconds, 1e-6), worker))
            continue
        assert isinstance(step, Go)
        rows = round(step.rows * used[turn % len(used)])
        granted.append((clock.seconds, rows))
        paces[worker].after_batch(step.rows, rows)
        heapq.heappush(free, (clock.seconds + batch_seconds[turn % len(batch_seconds)], worker))
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
    granted = grants(
        paces_of(clock, Options(rate=str(Rate(rate))), workers=workers),
        clock,
        seconds=25.0,
        wanted=wanted,
        used=used,
        batch_seconds=batch_seconds,
    )
    # what a batch did not find and gave back may come behind what others wait for already
    most_rows = max(1, int(rate * BATCH_SHARE_SECONDS))
    returned = 0 if min(used) == 1 else (workers - 1) * min(max(wanted), most_rows)
    assert most_in_a_period(granted) <= ceil(rate * PERIOD_SECONDS) + returned


@settings(share_of_examples(60))
@given(rate=RATES, workers=st.integers(1, 6))
def test_workers_that_always_ask_get_nearly_all_of_the_rate(rate: float, workers: int) -> None:
    clock = FakeClock(MONDAY_NOON)
    paces = paces_of(clock, Options(rate=str(Rate(rate))), workers=workers)
    seconds = max(60.0, 100 / rate)
    granted = grants(paces, clock, seconds=seconds)
    began = sum(rows for at, rows in granted if at <= seconds)
    assert 0.95 * rate * seconds - 1 <= began <= rate * seconds + 1
    assert most_in_a_period(granted) <= ceil(rate * PERIOD_SECONDS)


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


def test_what_was_granted_and_not_begun_is_given_back() -> None:
    clock = FakeClock(MONDAY_NOON)
    pace = Pace(clock, Options(rate="1/s"))
    for _ in range(100):
        assert isinstance(pace.before_batch(10), Wait)
        pace.give_back()
    step = pace.before_batch(10)
    assert isinstance(step, Wait)
    assert step.seconds <= 1.1


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


# --- changed while it works ----------------------------------------------------------------------


class Shared:
    """A run with several workers whose options are changed for all of them at an instant.

    `limits` remembers since when which rate was allowed, in rows per second.
    """

    def __init__(self, workers: int, options: Options) -> None:
        self.clock = FakeClock(MONDAY_NOON)
        self.paces = paces_of(self.clock, options, workers=workers)
        self.options = options
        self.limits: list[tuple[float, float | None]] = [(0.0, self._limit(1.0))]
        self.granted: list[tuple[float, int]] = []

    def _limit(self, speed: float) -> float | None:
        rate = self.options.rate
        return None if rate is None else Rate.parse(rate).rows_per_second * speed

    def tune(self, options: Options, speed: float) -> None:
        self.options = options
        for pace in self.paces:
            pace.tune(options, speed=speed)
        self.limits.append((self.clock.seconds, self._limit(speed)))

    def work(self, seconds: float, batch_seconds: float) -> None:
        """Everybody asks again and again."""
        began = self.clock.seconds
        most = MOST_GRANTS
        free = [(began, worker) for worker in range(len(self.paces))]
        while free[0][0] < began + seconds and most:
            most -= 1
            self.clock.seconds, worker = heapq.heappop(free)
            step = self.paces[worker].before_batch(10_000)
            if isinstance(step, Go):
                self.granted.append((self.clock.seconds, step.rows))
                self.paces[worker].after_batch(step.rows, step.rows, seconds=batch_seconds)
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


@settings(share_of_examples(60))
@given(
    workers=st.integers(1, 4),
    batch_seconds=st.floats(0.01, 0.5),
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
    tunes: list[tuple[float | None, float, float, str | None, float]],
) -> None:
    run = Shared(workers, Options())
    for rate, speed, duty, window, seconds in tunes:
        text = None if rate is None else str(Rate(rate))
        run.tune(Options(rate=text, duty=duty, window=window), speed)
        run.work(seconds, batch_seconds)
    for at, _ in run.granted:
        limit = run.highest_limit(at, at + PERIOD_SECONDS)
        if limit is not None:
            inside = sum(r for when, r in run.granted if at <= when < at + PERIOD_SECONDS)
            # a slot that waits for a single row keeps it when the rate is lowered
            single = workers - 1 if limit * BATCH_SHARE_SECONDS < workers else 0
            assert inside <= ceil(limit * PERIOD_SECONDS) + single
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


def test_rows_that_were_granted_under_a_high_rate_are_owed_under_the_low_one() -> None:
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
