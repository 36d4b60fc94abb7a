"""Runs that start at an instant, or may work until one; the clock is the test's own."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from backfill.engine.pace import Pace
from backfill.job import Job, Options
from tests.engine.factory import AtVisit, FakeClock, Worksite, until
from tests.engine.jobs import Increment, IncrementInPython

NOON = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)
BY_TEN = Options(batch_rows=10, slice_rows=30)


def test_a_run_waits_for_its_start_and_goes_on_by_itself(site: Worksite) -> None:
    """I5, I7: nothing is done before, and its pause says until when."""
    site.numbers(50)
    clock, options = FakeClock(NOON), replace(BY_TEN, start_at="2026-07-01T23:00+02:00")
    run = site.enqueue(Increment, options=options)
    with site.crew(Increment, run, clock=clock, pace=Pace(clock, options)):
        paused = site.until_state(run, "paused")
        assert paused.why_paused == "window: it starts at 2026-07-01T21:00+00:00"
        assert paused.pauses[0].ends.startswith("by itself at 2026-07-01T23:00+02:00")
        assert paused.counts.paged == 0
        clock.sleep(timedelta(hours=9).total_seconds())
    done = site.outcome(run)
    assert done.state == "succeeded"
    assert done.event("run.resumed").caused_by == "the window opened"


def test_a_start_outside_the_window_waits_for_the_window_in_one_pause(site: Worksite) -> None:
    site.numbers(50)
    clock = FakeClock(NOON)
    options = replace(BY_TEN, start_at="2026-07-02T12:00Z", window="22:00-06:00 UTC")
    run = site.enqueue(Increment, options=options)
    with site.crew(Increment, run, clock=clock, pace=Pace(clock, options)):
        assert (
            "by itself at 2026-07-02T22:00+00:00" in site.until_state(run, "paused").pauses[0].ends
        )
        clock.sleep(timedelta(hours=34).total_seconds())
    done = site.outcome(run)
    assert done.state == "succeeded"
    assert [event.name for event in done.events].count("run.paused") == 1


@pytest.mark.parametrize("job", [Increment, IncrementInPython])
def test_at_the_bell_the_batch_in_hand_commits_and_the_process_ends(
    site: Worksite, job: type[Job]
) -> None:
    """Nothing opens again after `until`: threads that waited for it would wait for ever."""
    site.numbers(50)
    clock, options = FakeClock(NOON), replace(BY_TEN, until="2026-07-01T12:01Z")
    run = site.enqueue(job, options=options)
    bell = AtVisit("before COMMIT", 2, lambda: clock.sleep(120))
    paused = site.work(job, run, clock=clock, pace=Pace(clock, options), probe=bell)
    assert paused.state == "paused"
    assert paused.counts.written == 20
    assert paused.why_paused == "window: its time was over at 2026-07-01T12:01+00:00 (until)"
    ends = paused.pauses[0].ends
    assert f"`backfill tune {run.id} --until" in ends
    assert f"`backfill cancel {run.id}`" in ends
    until(
        lambda: not site.rows("SELECT FROM backfill.slice WHERE holder IS NOT NULL"),
        what="the slice to be given back",
    )


def test_with_a_later_until_the_same_run_goes_on_where_it_stopped(site: Worksite) -> None:
    site.numbers(50)
    clock, options = FakeClock(NOON), replace(BY_TEN, until="2026-07-01T12:01Z")
    run = site.enqueue(Increment, options=options)
    bell = AtVisit("before COMMIT", 2, lambda: clock.sleep(120))
    pace = Pace(clock, options)
    assert site.work(Increment, run, clock=clock, pace=pace, probe=bell).state == "paused"
    later = replace(options, until="2026-07-02T12:00Z")
    done = site.work(Increment, run, clock=clock, pace=Pace(clock, later))
    assert done.state == "succeeded"
    assert site.rows("SELECT DISTINCT n FROM t") == [(1,)]
