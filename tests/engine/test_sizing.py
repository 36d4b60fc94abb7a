"""How many rows a batch takes: within bounds, in small steps up, and as the target time allows."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.engine.sizing import (
    CUT,
    FAR_OVER,
    FIRST_ROWS,
    GROWTH,
    MAX_ROWS,
    MIN_ROWS,
    RECENT,
    TARGET_SECONDS,
    BatchSizer,
)

#: What became of a batch: seconds; or None, a time-out. And the share of its rows that it obtained.
BATCHES = st.lists(
    st.tuples(
        st.none() | st.floats(0, 1, allow_nan=False) | st.floats(0, 60, allow_nan=False),
        st.floats(0, 1, allow_nan=False),
    ),
    max_size=60,
)


@given(rows=st.just("auto") | st.integers(1, 100_000), batches=BATCHES)
def test_whatever_happens_the_size_stays_in_its_bounds_and_grows_in_small_steps(
    rows: int | Literal["auto"], batches: list[tuple[float | None, float]]
) -> None:
    sizer = BatchSizer(rows)
    most = MAX_ROWS if rows == "auto" else rows
    has_timed_out = False
    for seconds, share in batches:
        before = sizer.rows
        if seconds is None:
            sizer.timed_out()
            has_timed_out = True
            assert sizer.rows == max(1, before // CUT)
        else:
            sizer.committed(round(before * share), seconds)
            assert sizer.rows <= max(before + 1, before * GROWTH)
        assert 1 <= sizer.rows <= most
        if rows == "auto":
            assert sizer.rows >= MIN_ROWS or has_timed_out
        else:
            assert sizer.rows == rows or has_timed_out


@given(seconds_per_row=st.floats(1e-7, 0.01))
def test_the_size_comes_to_what_the_target_time_allows(seconds_per_row: float) -> None:
    sizer = BatchSizer("auto")
    for _ in range(40):
        sizer.committed(sizer.rows, sizer.rows * seconds_per_row)
    allowed = min(MAX_ROWS, max(MIN_ROWS, TARGET_SECONDS / seconds_per_row))
    assert allowed - 1 <= sizer.rows <= allowed


@given(overhead=st.floats(0, TARGET_SECONDS / 2), seconds_per_row=st.floats(1e-6, 1e-3))
def test_what_a_batch_costs_beside_its_rows_does_not_take_it_over_the_target(
    overhead: float, seconds_per_row: float
) -> None:
    sizer = BatchSizer("auto")
    for _ in range(100):
        sizer.committed(sizer.rows, overhead + sizer.rows * seconds_per_row)
    seconds = overhead + sizer.rows * seconds_per_row
    assert seconds <= TARGET_SECONDS * 1.01 or sizer.rows == MIN_ROWS


def steady(seconds_per_row: float = 0.0005) -> BatchSizer:
    """A sizer that has come to rest."""
    sizer = BatchSizer("auto")
    for _ in range(2 * RECENT):
        sizer.committed(sizer.rows, sizer.rows * seconds_per_row)
    return sizer


@pytest.mark.parametrize("factor", [0.01, 0.5, 2.0, FAR_OVER * 0.99])
def test_one_batch_that_is_unlike_the_others_changes_nothing(factor: float) -> None:
    sizer = steady()
    before = sizer.rows
    sizer.committed(before, before * 0.0005 * factor)
    assert sizer.rows == before


def test_a_batch_far_over_the_target_cuts_the_size_at_once() -> None:
    sizer = steady()
    before = sizer.rows
    sizer.committed(before, FAR_OVER * TARGET_SECONDS * 1.01)
    assert sizer.rows == max(MIN_ROWS, before // CUT)


def test_when_rows_become_slower_the_size_follows_within_a_few_batches() -> None:
    sizer = steady(0.0001)
    for _ in range(3):
        sizer.committed(sizer.rows, sizer.rows * 0.0003)
    assert sizer.rows <= TARGET_SECONDS / 0.0003


def test_the_first_batch_is_small_and_a_fixed_size_is_kept() -> None:
    assert BatchSizer("auto").rows == FIRST_ROWS
    sizer = BatchSizer(5_000)
    for seconds in (0.0, 10.0, 30.0):
        sizer.committed(5_000, seconds)
        assert sizer.rows == 5_000


def test_a_page_without_rows_teaches_nothing() -> None:
    sizer = steady()
    before = sizer.rows
    sizer.committed(0, 30.0)
    assert sizer.rows == before


@pytest.mark.parametrize("rows", ["auto", 400])
def test_after_a_time_out_the_size_is_a_tenth_and_grows_again(
    rows: int | Literal["auto"],
) -> None:
    sizer = BatchSizer(rows)
    before = sizer.rows
    sizer.timed_out()
    assert sizer.rows == before // CUT
    for _ in range(20):
        sizer.committed(sizer.rows, sizer.rows * TARGET_SECONDS / 400)
    assert sizer.rows == 400


def test_rows_that_are_too_slow_for_the_least_size_go_on_in_smaller_batches() -> None:
    """Time-outs follow from the size: a row of 5 s under a statement_timeout of 30 s."""
    sizer = BatchSizer("auto")
    time_outs = 0
    for _ in range(50):
        if sizer.rows * 5.0 > 30.0:
            sizer.timed_out()
            time_outs += 1
        else:
            sizer.committed(sizer.rows, sizer.rows * 5.0)
    assert time_outs <= 2
