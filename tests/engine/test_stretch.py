"""The target is stretched where no number of rows could keep to it, and only there."""

from __future__ import annotations

import random
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backfill.engine.sizing import BatchSizer
from backfill.engine.stretch import ENOUGH, MOST, PATIENCE, RELAX, STRETCH, Stretch
from backfill.job import Options
from tests.profiles import share_of_examples

TARGET = 0.05
AUTO = Options(target_batch_seconds=TARGET)
LEAST = AUTO.min_batch_rows


def batches(
    sizer: BatchSizer, *, fixed: float, per_row: float, number: int, noise: float, seed: int = 1
) -> tuple[float, float, float]:
    """Rows/s, rows a batch and seconds a batch of so many batches that follow each other."""
    chance = random.Random(seed)
    rows, seconds = [], []
    for _ in range(number):
        took = (fixed + sizer.rows * per_row) * chance.lognormvariate(0.0, noise)
        rows.append(sizer.rows)
        seconds.append(took)
        sizer.committed(asked=sizer.rows, taken=sizer.rows, seconds=took)
    return sum(rows) / sum(seconds), mean(rows), mean(seconds)


@settings(share_of_examples(60))
@given(
    fixed=st.floats(TARGET, MOST * TARGET / STRETCH / 1.2),
    noise=st.floats(0.05, 0.5),
    seed=st.integers(0, 1000),
)
def test_where_each_batch_is_late_whatever_its_size_many_rows_go_into_it(
    fixed: float, noise: float, seed: int
) -> None:
    sizer = BatchSizer(AUTO)
    rate, _, seconds = batches(
        sizer, fixed=fixed, per_row=2e-5, number=2_000, noise=noise, seed=seed
    )
    # with batches of the least size it would be LEAST / fixed
    assert rate >= 10 * LEAST / fixed
    assert seconds <= 1.5 * STRETCH * fixed  # the median is aimed at, and the mean is more


@settings(share_of_examples(60))
@given(per_row=st.floats(0.005, 0.03), noise=st.floats(0.05, 0.3), seed=st.integers(0, 1000))
def test_where_the_rows_are_slow_batches_stay_small(
    per_row: float, noise: float, seed: int
) -> None:
    sizer = BatchSizer(AUTO)
    batches(sizer, fixed=0.001, per_row=per_row, number=300, noise=noise, seed=seed)
    _, rows, _ = batches(sizer, fixed=0.001, per_row=per_row, number=2_000, noise=noise, seed=seed)
    assert rows <= STRETCH * LEAST


def test_when_the_server_has_time_again_the_target_holds_again() -> None:
    sizer = BatchSizer(AUTO)
    batches(sizer, fixed=2 * TARGET, per_row=2e-5, number=500, noise=0.1)
    batches(sizer, fixed=0.002, per_row=2e-5, number=1_000, noise=0.1)
    _, _, seconds = batches(sizer, fixed=0.002, per_row=2e-5, number=300, noise=0.1)
    assert 0.7 * TARGET <= seconds <= TARGET


def seen(stretch: Stretch, rows: int, seconds: float, number: int) -> None:
    for _ in range(number):
        stretch.saw(rows, seconds, least_rows=LEAST, asked_for=TARGET)


def test_only_batches_of_the_least_size_stretch_it_and_only_enough_of_them() -> None:
    stretch = Stretch()
    seen(stretch, 2 * LEAST, 1.0, 100)
    seen(stretch, LEAST, 0.08, ENOUGH - 1)
    assert stretch.target(TARGET) == TARGET
    seen(stretch, LEAST, 0.08, 1)
    assert stretch.target(TARGET) == pytest.approx(STRETCH * 0.08)
    seen(stretch, 2 * LEAST, 0.08, 100)
    assert stretch.target(TARGET) == pytest.approx(STRETCH * 0.08 * RELAX**100)


def test_batches_that_are_later_than_its_bound_do_not_stretch_it() -> None:
    stretch = Stretch()
    seen(stretch, LEAST, 1.01 * MOST / STRETCH * TARGET, 10 * ENOUGH)
    assert stretch.target(TARGET) == TARGET


def test_rows_that_turn_out_to_be_the_cause_end_it_for_a_while() -> None:
    stretch = Stretch()
    seen(stretch, LEAST, 0.08, ENOUGH)
    seen(stretch, 2 * LEAST, 0.15, ENOUGH)
    assert stretch.target(TARGET) == TARGET
    seen(stretch, LEAST, 0.08, PATIENCE - 1)
    assert stretch.target(TARGET) == TARGET
    seen(stretch, LEAST, 0.08, ENOUGH + 1)
    assert stretch.target(TARGET) > TARGET
