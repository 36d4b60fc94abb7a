"""Rows by instant: the most within a span, and the speed on the whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.rate import most_in, speed

commits = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 100)), max_size=40).map(sorted)


@given(commits, st.integers(1, 20))
def test_the_most_within_a_span_is_that_of_the_fullest_one(
    made: list[tuple[int, int]], seconds: int
) -> None:
    by_hand = max(
        (sum(rows for at, rows in made if first <= at < first + seconds) for first, _ in made),
        default=0,
    )
    assert most_in(made, seconds) == by_hand


def test_the_first_commit_says_only_when_it_began() -> None:
    assert speed([(0.0, 500), (1.0, 100), (2.0, 100)]) == pytest.approx(100)
    assert speed([(0.0, 500)]) == 0
