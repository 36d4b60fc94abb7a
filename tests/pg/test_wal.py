"""`backfill.pg.wal`: lags and rates from positions, against what really happened."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backfill.pg.slowdown import Slowdown
from backfill.pg.wal import GAP_SECONDS, RATE_SECONDS, WalHistory


def history(*samples: tuple[float, int]) -> WalHistory:
    made = WalHistory()
    for at, position in samples:
        made.record(at, position)
    return made


def test_who_has_replayed_all_does_not_lag() -> None:
    assert history((0, 100), (1, 200)).lag_seconds(200, 9.0) == 0
    assert history((0, 100), (1, 200)).lag_seconds(999, 9.0) == 0


def test_the_lag_is_the_time_since_the_wal_passed_the_position() -> None:
    steady = history(*((second, 100 * second) for second in range(11)))
    assert steady.lag_seconds(400, 10.0) == pytest.approx(6)
    assert steady.lag_seconds(450, 10.0) == pytest.approx(5.5)  # between two samples: by share


def test_a_still_stretch_counts_from_its_end() -> None:
    idle = history(*((second, 100) for second in range(60)), (60, 5_000))
    assert idle.lag_seconds(100, 60.0) == pytest.approx(1)


def test_what_was_before_the_first_sample_is_not_known() -> None:
    assert history().lag_seconds(5, 1.0) is None
    assert history((0, 100)).lag_seconds(99, 1.0) is None
    assert history((0, 100), (7, 200)).known_seconds(9.0) == 9


@pytest.mark.parametrize(
    ("at", "position"), [(2.0, 50), (1.0 + GAP_SECONDS + 0.1, 300)], ids=["back", "gap"]
)
def test_a_position_that_goes_back_and_a_gap_end_what_is_known(at: float, position: int) -> None:
    made = history((0, 100), (1, 200), (at, position))
    assert made.lag_seconds(position - 1, at) is None
    assert made.latest == position
    assert made.bytes_per_second() is None


def test_the_rate_is_over_the_last_seconds() -> None:
    assert history((0, 0), (2, 200)).bytes_per_second() == 100
    grown = history(*((second, 10 * second) for second in range(100)), (100, 1990))
    assert grown.bytes_per_second() == pytest.approx(
        (1990 - 10 * (100 - RATE_SECONDS + 1)) / (RATE_SECONDS - 1)
    )
    assert history((0, 0)).bytes_per_second() is None


def test_only_so_much_is_kept() -> None:
    long = history(*((second, second) for second in range(100_000)))
    assert 3_600 < long.known_seconds(99_999.0) < 10_000
    assert long.lag_seconds(99_000, 99_999.0) == pytest.approx(999)


@given(
    st.lists(
        st.tuples(st.floats(0.01, 1.5 * GAP_SECONDS), st.integers(0, 10**9)),
        min_size=1,
    ),
    st.floats(0, 1),
)
# a step of exactly the gap, which the rounding of the sum makes longer than the gap
@example(steps=[(0.8, 0), (0.8, 0), (GAP_SECONDS, 1)], share=0.0)
@example(steps=[(0.8, 0), (0.8, 0), (GAP_SECONDS, 1)], share=1.0)
def test_a_lag_is_between_the_samples_around_its_position_as_far_as_they_are_known(
    steps: list[tuple[float, int]], share: float
) -> None:
    at, position = 0.0, 0
    samples: list[tuple[float, int]] = []
    known: list[tuple[float, int]] = []  # since the last gap
    for seconds, written in steps:
        before, at, position = at, at + seconds, position + written
        samples.append((at, position))
        known = [*(() if at - before > GAP_SECONDS else known), samples[-1]]
    first = samples[0][1]
    replayed = first + round(share * (position + 1 - first))
    lag = history(*samples).lag_seconds(replayed, at)
    if replayed < known[0][1]:
        assert lag is None
        return
    assert lag is not None
    earlier = max(then for then, where in known if where <= replayed)
    later = [then for then, where in known if where > replayed]
    if later:
        assert at - later[0] - 1e-6 <= lag <= at - earlier + 1e-6
    else:
        assert lag == 0


@given(st.lists(st.none() | st.floats(0, 1e6), max_size=30))
def test_a_slowdown_is_finite_and_1_without_work(samples: list[float | None]) -> None:
    slowdown = Slowdown()
    for seconds in samples:
        value, detail = slowdown.sample(seconds)
        assert 0 <= value < float("inf")
        assert detail or value >= 0
        if seconds is None:
            assert value == 1


def test_a_run_that_became_slow_for_good_is_measured_by_its_new_pace() -> None:
    slowdown = Slowdown()
    for _ in range(300):
        assert slowdown.sample(0.001)[0] == 1
    for _ in range(290):
        value, _ = slowdown.sample(0.01)
    assert value == pytest.approx(10)
    for _ in range(20):
        value, _ = slowdown.sample(0.01)
    assert value == 1
