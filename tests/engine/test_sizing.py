"""How many rows a batch takes: within bounds, in small steps up, as target and budget allow."""

from __future__ import annotations

import random
from statistics import mean
from typing import Literal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from backfill.engine.sizing import CUT, ENOUGH, FAR_OVER, FIRST_ROWS, GROWTH, RECENT, BatchSizer
from backfill.job import Options

AUTO = Options()
TARGET = AUTO.target_batch_seconds

#: What became of a batch: seconds (None: a time-out), the share of its rows that it obtained, the
#: share of its size that it was asked for, and WAL a row.
BATCHES = st.lists(
    st.tuples(
        st.none() | st.floats(0, 1, allow_nan=False) | st.floats(0, 60, allow_nan=False),
        st.floats(0, 1),
        st.floats(0, 1),
        st.none() | st.integers(0, 100_000),
    ),
    max_size=60,
)
OPTIONS = st.builds(
    lambda target, least, more, wal: Options(
        target_batch_seconds=target,
        min_batch_rows=least,
        max_batch_rows=min(100_000, least + more),
        max_batch_wal_bytes=wal,
    ),
    st.floats(0.001, 0.5),
    st.integers(1, 1_000),
    st.integers(0, 100_000),
    st.integers(64 * 1024, 2**30),
)


def feed(sizer: BatchSizer, seconds_per_row: float, *, batches: int, fixed: float = 0.0) -> None:
    """Batches that take what was asked, and the same time for every row."""
    for _ in range(batches):
        rows = sizer.rows
        sizer.committed(asked=rows, taken=rows, seconds=fixed + rows * seconds_per_row)


def steady(seconds_per_row: float = 0.0005) -> BatchSizer:
    """A sizer that has come to rest."""
    sizer = BatchSizer(AUTO)
    feed(sizer, seconds_per_row, batches=2 * RECENT)
    return sizer


# --- whatever happens ----------------------------------------------------------------------------


@given(options=OPTIONS, batches=BATCHES)
def test_whatever_happens_the_size_stays_in_its_bounds_and_grows_in_small_steps(
    options: Options, batches: list[tuple[float | None, float, float, int | None]]
) -> None:
    sizer = BatchSizer(options)
    has_timed_out = False
    for seconds, obtained, share, wal in batches:
        before = sizer.rows
        if seconds is None:
            change = sizer.timed_out()
            has_timed_out = True
            assert sizer.rows == max(1, before // CUT)
        else:
            asked = max(1, round(before * share))
            taken = round(asked * obtained)
            change = sizer.committed(
                asked=asked,
                taken=taken,
                seconds=seconds,
                wal_bytes=None if wal is None else wal * taken,
            )
            assert sizer.rows <= max(before + 1, before * GROWTH)
            if seconds > FAR_OVER * options.target_batch_seconds:
                least = min(before, options.min_batch_rows)
                assert sizer.rows <= max(least, asked / CUT)
        assert 1 <= sizer.rows <= options.max_batch_rows
        assert sizer.rows >= options.min_batch_rows or has_timed_out
        assert (change is None) == (sizer.rows == before)
        if change is not None:
            assert (change.was, change.rows) == (before, sizer.rows)
            assert change.reason


@given(rows=st.integers(1, 100_000), batches=BATCHES)
def test_a_fixed_size_is_kept_but_for_time_outs(
    rows: int, batches: list[tuple[float | None, float, float, int | None]]
) -> None:
    sizer = BatchSizer(Options(batch_rows=rows))
    has_timed_out = False
    for seconds, obtained, _, wal in batches:
        before = sizer.rows
        if seconds is None:
            sizer.timed_out()
            has_timed_out = True
        else:
            taken = round(before * obtained)
            sizer.committed(asked=before, taken=taken, seconds=seconds, wal_bytes=wal)
            assert sizer.rows <= max(before + 1, before * GROWTH)
        assert 1 <= sizer.rows <= rows
        assert sizer.rows == rows or has_timed_out


# --- to the target -------------------------------------------------------------------------------


@given(seconds_per_row=st.floats(1e-7, 0.01), target=st.floats(0.001, 0.5))
def test_the_size_comes_to_what_the_target_time_allows(
    seconds_per_row: float, target: float
) -> None:
    options = Options(target_batch_seconds=target)
    sizer = BatchSizer(options)
    feed(sizer, seconds_per_row, batches=80)
    allowed = min(options.max_batch_rows, max(options.min_batch_rows, target / seconds_per_row))
    assert allowed - 1 <= sizer.rows <= allowed


@given(fixed=st.floats(0, TARGET / 2), seconds_per_row=st.floats(1e-6, 1e-3))
def test_what_a_batch_costs_beside_its_rows_is_a_part_of_the_target(
    fixed: float, seconds_per_row: float
) -> None:
    sizer = BatchSizer(AUTO)
    feed(sizer, seconds_per_row, batches=300, fixed=fixed)
    seconds = fixed + sizer.rows * seconds_per_row
    assert seconds <= TARGET * 1.01 or sizer.rows == AUTO.min_batch_rows
    assert seconds >= TARGET * 0.85 or sizer.rows == AUTO.max_batch_rows


def test_nine_of_ten_batches_of_a_noisy_database_keep_to_the_target() -> None:
    """And they are not much shorter than they have to be for that."""
    chance = random.Random(20130101)
    sizer = BatchSizer(AUTO)
    seconds: list[float] = []
    for number in range(2_000):
        took = 0.002 + sizer.rows * 2e-5 * chance.lognormvariate(0.0, 0.25)
        if number >= 100:
            seconds.append(took)
        sizer.committed(asked=sizer.rows, taken=sizer.rows, seconds=took)
    within = sum(took <= TARGET for took in seconds) / len(seconds)
    assert 0.85 <= within <= 0.95
    assert 0.65 * TARGET <= mean(seconds) <= 0.85 * TARGET


def test_the_ends_of_slices_make_no_batch_smaller() -> None:
    """A page of few rows costs nearly as much as a whole one: every fifth page is none to copy."""
    sizer = BatchSizer(AUTO)
    for number in range(200):
        rows = sizer.rows if number % 5 else max(1, sizer.rows // 10)
        sizer.committed(asked=sizer.rows, taken=rows, seconds=0.005 + rows * 2e-5)
    assert 0.005 + sizer.rows * 2e-5 >= 0.9 * TARGET


def test_pages_that_find_few_rows_and_take_long_are_made_smaller() -> None:
    """Where the scope is sparse, the time goes into looking."""
    sizer = steady(0.0001)
    before = sizer.rows
    for _ in range(RECENT):
        sizer.committed(asked=sizer.rows, taken=1, seconds=sizer.rows * 0.0002)
    assert sizer.rows == before // 2


def test_a_size_that_the_rate_does_not_let_a_batch_have_does_not_grow() -> None:
    sizer = steady(0.0005)
    before = sizer.rows
    for _ in range(100):
        sizer.committed(asked=5, taken=5, seconds=0.0001)
    assert sizer.rows == before


@pytest.mark.parametrize("factor", [0.01, 0.5, 2.0, FAR_OVER * 0.99])
def test_one_batch_that_is_unlike_the_others_changes_nothing(factor: float) -> None:
    sizer = steady()
    before = sizer.rows
    sizer.committed(asked=before, taken=before, seconds=before * 0.0005 * factor)
    assert sizer.rows == before


@pytest.mark.parametrize("seen", range(1, ENOUGH - 1))
def test_before_enough_batches_were_seen_the_slowest_counts(seen: int) -> None:
    sizer = BatchSizer(AUTO)
    feed(sizer, 0.0001, batches=seen)
    before = sizer.rows
    sizer.committed(asked=before, taken=before, seconds=4 * TARGET)
    assert sizer.rows == before // 4


def test_a_batch_far_over_the_target_cuts_the_size_at_once() -> None:
    sizer = steady()
    before = sizer.rows
    change = sizer.committed(asked=before, taken=before, seconds=FAR_OVER * TARGET * 1.01)
    assert sizer.rows == max(AUTO.min_batch_rows, before // CUT)
    assert change is not None
    assert "5 times the target" in change.reason


def test_when_rows_become_slower_the_size_follows_within_a_few_batches() -> None:
    sizer = steady(0.0001)
    feed(sizer, 0.0003, batches=3)
    assert sizer.rows <= TARGET / 0.0002
    feed(sizer, 0.0003, batches=3)
    assert sizer.rows <= TARGET / 0.0003


def test_batches_that_a_busy_server_makes_late_do_not_shrink_the_others() -> None:
    """Every fourth batch is late by three targets whatever its size: smaller ones would be, too."""
    sizer = steady(0.0001)
    for number in range(400):
        late = 3 * TARGET if number % 4 == 0 else 0.0
        sizer.committed(asked=sizer.rows, taken=sizer.rows, seconds=sizer.rows * 0.0001 + late)
    assert sizer.rows >= 0.49 * TARGET / 0.0001


def test_the_first_batch_is_small() -> None:
    assert BatchSizer(AUTO).rows == FIRST_ROWS
    assert BatchSizer(Options(max_batch_rows=20)).rows == 20
    assert BatchSizer(Options(min_batch_rows=500)).rows == 500


def test_a_quick_page_without_rows_teaches_nothing() -> None:
    sizer = steady()
    before = sizer.rows
    sizer.committed(asked=before, taken=0, seconds=0.001)
    assert sizer.rows == before


# --- the budget of WAL ---------------------------------------------------------------------------


@given(wal_per_row=st.integers(100, 60_000), seconds_per_row=st.floats(1e-6, 1e-3))
def test_a_batch_keeps_to_the_smaller_of_target_and_budget(
    wal_per_row: int, seconds_per_row: float
) -> None:
    options = Options(max_batch_wal_bytes=1_000_000)
    assume(wal_per_row * options.min_batch_rows <= options.max_batch_wal_bytes)
    sizer = BatchSizer(options)
    for _ in range(60):
        rows = sizer.rows
        sizer.committed(
            asked=rows, taken=rows, seconds=rows * seconds_per_row, wal_bytes=rows * wal_per_row
        )
    allowed = min(TARGET / seconds_per_row, 1_000_000 / wal_per_row, options.max_batch_rows)
    assert allowed - 1 <= sizer.rows <= max(allowed, options.min_batch_rows)


def test_what_others_write_meanwhile_is_not_taken_for_ours() -> None:
    """In four of ten batches somebody else wrote ten times as much."""
    sizer = BatchSizer(Options(max_batch_wal_bytes=1_000_000))
    for number in range(60):
        others = 10_000_000 if number % 10 < 4 else 0
        sizer.committed(
            asked=sizer.rows,
            taken=sizer.rows,
            seconds=sizer.rows * 1e-5,
            wal_bytes=sizer.rows * 1_000 + others,
        )
    assert sizer.rows == 1_000


def test_the_reason_says_which_limit_it_was() -> None:
    sizer = BatchSizer(Options(max_batch_wal_bytes=100_000))
    by_budget = sizer.committed(asked=100, taken=100, seconds=0.001, wal_bytes=400_000)
    assert by_budget is not None
    assert "WAL" in by_budget.reason
    by_time = BatchSizer(AUTO).committed(asked=100, taken=100, seconds=0.01, wal_bytes=1)
    assert by_time is not None
    assert "0.05 s" in by_time.reason
    assert by_time.is_worth_telling


# --- time-outs, and options that change ----------------------------------------------------------


@pytest.mark.parametrize("rows", ["auto", 400])
def test_after_a_time_out_the_size_is_a_tenth_and_grows_again(
    rows: int | Literal["auto"],
) -> None:
    sizer = BatchSizer(Options(batch_rows=rows))
    before = sizer.rows
    sizer.timed_out()
    assert sizer.rows == before // CUT
    feed(sizer, TARGET / 400, batches=30)
    assert sizer.rows in {399, 400}


def test_rows_that_are_too_slow_for_the_least_size_go_on_in_smaller_batches() -> None:
    """Time-outs follow from the size: a row of 5 s under a statement_timeout of 30 s."""
    sizer = BatchSizer(AUTO)
    time_outs = 0
    for _ in range(50):
        if sizer.rows * 5.0 > 30.0:
            sizer.timed_out()
            time_outs += 1
        else:
            sizer.committed(asked=sizer.rows, taken=sizer.rows, seconds=sizer.rows * 5.0)
    assert time_outs <= 2


@pytest.mark.parametrize(
    ("changed", "rows"),
    [
        (Options(batch_rows=77), 77),
        (Options(max_batch_rows=50), 50),
        (Options(min_batch_rows=3_000), 3_000),
        (Options(rate="5/s"), 500),
    ],
    ids=["fixed", "most", "least", "another"],
)
def test_changed_options_hold_from_the_next_batch_on(changed: Options, rows: int) -> None:
    sizer = steady(0.0001)
    sizer.tune(changed)
    assert abs(sizer.rows - rows) <= 1


def test_a_changed_target_is_followed_from_what_was_learnt() -> None:
    sizer = steady(0.0001)
    sizer.tune(Options(target_batch_seconds=0.01))
    feed(sizer, 0.0001, batches=1)
    assert sizer.rows == pytest.approx(100, abs=1)


def test_a_size_that_was_fixed_goes_on_from_there_when_it_is_auto() -> None:
    sizer = BatchSizer(Options(batch_rows=2_000))
    sizer.tune(AUTO)
    assert sizer.rows == 2_000
    feed(sizer, 0.0001, batches=1)
    assert sizer.rows == pytest.approx(500, abs=1)
