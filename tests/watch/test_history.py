"""`backfill.watch.history`: when a run worked, and what it did in that time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backfill.pg.ledger import EventRecord
from backfill.watch.history import WorkingTime, pauses_of

BEGAN = datetime(2026, 11, 21, 10, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return BEGAN + timedelta(minutes=minutes)


def event(minutes: float, name: str, *, by: str = "ada", **detail: object) -> EventRecord:
    return EventRecord(
        id=int(minutes * 100), run="r", at=at(minutes), name=name, caused_by=by, detail=detail
    )


def paused(minutes: float, cause: str) -> EventRecord:
    return event(minutes, "run.paused", cause=cause, reason=f"{cause}!")


def resumed(minutes: float, *causes: str) -> EventRecord:
    return event(minutes, "run.resumed", by="bob", causes=list(causes))


def test_each_cause_has_its_own_end_and_author() -> None:
    found = pauses_of(
        [paused(1, "user"), paused(2, "window"), resumed(3, "user"), resumed(5, "window"),
         paused(7, "quarantine"), event(8, "rows.accepted", by="eve"),
         paused(9, "signal"), event(10, "run.cancelled", by="dan"), paused(11, "error")]
    )  # fmt: skip
    assert [(p.cause, p.since, p.until, p.by, p.ended_by) for p in found] == [
        ("user", at(1), at(3), "ada", "bob"),
        ("window", at(2), at(5), "ada", "bob"),
        ("quarantine", at(7), at(8), "ada", "eve"),
        ("signal", at(9), at(10), "ada", "dan"),
        ("error", at(11), None, "ada", ""),
    ]
    assert found[0].reason == "user!"


def test_causes_that_stand_side_by_side_are_counted_once() -> None:
    time = WorkingTime(
        [paused(10, "user"), paused(20, "window"), resumed(30, "user"), resumed(40, "window")],
        at(0),
        at(60),
    )
    assert time.seconds() == 30 * 60
    assert time.seconds(at(0), at(15)) == 10 * 60
    assert time.seconds(at(15), at(35)) == 0
    assert time.seconds(at(-100), at(500)) == 30 * 60


def test_a_failed_run_that_was_taken_up_again_did_not_work_in_between() -> None:
    time = WorkingTime([event(10, "run.failed"), event(50, "run.retried")], at(0), at(60))
    assert time.seconds() == 20 * 60
    assert WorkingTime([event(60, "run.failed")], at(0), at(60)).seconds() == 3600


def test_a_pause_that_goes_on_ends_with_what_is_known() -> None:
    assert WorkingTime([paused(10, "user")], at(0), at(60)).seconds() == 600


def test_rows_are_spread_over_the_time_at_work_alone() -> None:
    time = WorkingTime([paused(20, "user"), resumed(40, "user")], at(0), at(60))
    parts = time.stretches([(at(60), 4000)], 3)
    assert [part.rows for part in parts] == pytest.approx([2000, 0, 2000])
    assert [part.worked_seconds for part in parts] == [1200, 0, 1200]
    assert [part.rate for part in parts] == pytest.approx([2000 / 1200, 0, 2000 / 1200])


def test_a_number_that_goes_back_is_no_negative_speed() -> None:
    time = WorkingTime([], at(0), at(40))
    parts = time.stretches([(at(10), 100), (at(20), 50), (at(40), 300)], 4)
    assert [part.rows for part in parts] == pytest.approx([100, 0, 100, 100])


points = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 10_000)), max_size=20)
spans = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=5)


@given(points, spans, st.integers(1, 30))
@example(known=[(1, 1)], idle=[(0, 1)], number=1)  # settled while it was paused
def test_the_parts_add_up_to_the_whole(
    known: list[tuple[int, int]], idle: list[tuple[int, int]], number: int
) -> None:
    events = [
        event
        for begin, end in idle
        if begin < end
        for event in (paused(begin, f"{begin}-{end}"), resumed(end, f"{begin}-{end}"))
    ]
    time = WorkingTime(sorted(events, key=lambda e: e.at), at(0), at(60))
    total = max((rows for minute, rows in known if minute), default=0)
    parts = time.stretches(
        [*((at(minute), rows) for minute, rows in known), (at(60), total)], number
    )
    assert sum(part.rows for part in parts) == pytest.approx(total)
    assert sum(part.worked_seconds for part in parts) == pytest.approx(time.seconds())
    assert all(part.rows >= -1e-6 for part in parts)
