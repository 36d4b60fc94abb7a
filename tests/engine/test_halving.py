"""Halving: exactly the bad rows are found, soon, whatever their number and place."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.engine.halving import Halving


def walk(rows: int, bad: set[int], sizes: Iterator[int]) -> tuple[list[int], list[int], int]:
    """Page through rows 0 … as work.py does; returns the written, the refused, the transactions.

    Args:
        sizes: what the page's size would be without halving, page by page.
    """
    halving = Halving()
    written: list[int] = []
    refused: list[int] = []
    cursor = transactions = 0
    while cursor < rows:
        # each try of a page of two or more either moves the cursor or halves the page
        assert transactions <= 4 * rows + 4
        page = list(range(cursor, min(rows, cursor + halving.limit(next(sizes)))))
        transactions += 1
        if bad & set(page) and len(page) > 1:
            halving.refused(len(page))
            continue
        (refused if bad & set(page) else written).extend(page)
        halving.settled()
        cursor += len(page)
    return written, refused, transactions


def forever(size: int) -> Iterator[int]:
    while True:
        yield size


@st.composite
def tables(draw: st.DrawFn) -> tuple[int, set[int]]:
    rows = draw(st.integers(0, 300))
    bad = draw(st.sets(st.integers(0, rows - 1), max_size=12)) if rows else set()
    return rows, bad


@given(table=tables(), size=st.integers(1, 300))
def test_exactly_the_bad_rows_are_refused(table: tuple[int, set[int]], size: int) -> None:
    rows, bad = table
    written, refused, _ = walk(rows, bad, forever(size))
    assert refused == sorted(bad)
    assert written == [row for row in range(rows) if row not in bad]


@given(table=tables(), size=st.integers(1, 300))
def test_a_bad_row_costs_few_transactions(table: tuple[int, set[int]], size: int) -> None:
    rows, bad = table
    *_, transactions = walk(rows, bad, forever(size))
    each = 2 * ceil(log2(min(size, max(rows, 1)))) + 1
    assert transactions <= ceil(rows / size) + len(bad) * each


@given(table=tables(), sizes=st.lists(st.integers(1, 300), min_size=1, max_size=20))
def test_it_ends_as_well_when_pages_become_smaller_and_larger_meanwhile(
    table: tuple[int, set[int]], sizes: list[int]
) -> None:
    """A time-out shrinks pages; so does a rate."""
    rows, bad = table
    turns = (size for _ in forever(0) for size in sizes)
    written, refused, _ = walk(rows, bad, turns)
    assert refused == sorted(bad)
    assert written == [row for row in range(rows) if row not in bad]


@pytest.mark.parametrize("rows", [2, 3, 7, 1000])
def test_when_every_row_is_bad_each_is_refused_by_itself(rows: int) -> None:
    written, refused, transactions = walk(rows, set(range(rows)), forever(rows))
    assert (written, refused) == ([], list(range(rows)))
    assert transactions == 2 * rows - 1


def test_it_is_active_while_a_part_of_the_refused_page_is_left() -> None:
    halving = Halving()
    assert not halving.is_active
    assert halving.limit(8) == 8
    halving.refused(5)
    assert (halving.is_active, halving.limit(8), halving.limit(1)) == (True, 2, 1)
    halving.settled()
    assert (halving.is_active, halving.limit(8)) == (True, 3)
    halving.settled()
    assert (halving.is_active, halving.limit(8)) == (False, 8)
    halving.settled()
    assert not halving.is_active


def test_another_slice_begins_with_full_pages() -> None:
    halving = Halving()
    halving.refused(1000)
    halving.clear()
    assert (halving.is_active, halving.limit(8)) == (False, 8)
