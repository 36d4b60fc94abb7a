"""Windows and rates as a run obeys them; the clock is the test's own, so nothing is waited for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from backfill.clock import Clock
from backfill.engine.pace import LocalLimiter, Pace
from backfill.job import Job, Options
from backfill.model import PauseCause
from tests.engine.factory import AtVisit, FakeClock, Worksite, until
from tests.engine.jobs import Increment, IncrementInPython

NIGHT = "22:00-06:00 UTC"
BY_TEN = Options(batch_rows=10, slice_rows=30, window=NIGHT)


def _pace(clock: Clock) -> Pace:
    return Pace(clock, Options(window=NIGHT))


def test_outside_its_window_a_run_pauses_before_its_first_slice_and_says_until_when(
    site: Worksite,
) -> None:
    """I5, I7: it works by itself when the window opens; nobody has to resume it."""
    site.numbers(50)
    clock = FakeClock(datetime(2026, 7, 1, 12, 0, tzinfo=UTC))
    run = site.enqueue(Increment, options=BY_TEN)
    with site.crew(Increment, run, clock=clock, pace=_pace(clock)):
        paused = site.until_state(run, "paused")
        assert paused.why_paused == f"window: outside its window ({NIGHT})"
        assert paused.pauses[0].ends == "by itself at 2026-07-01T22:00+00:00"
        assert paused.counts.paged == 0
        clock.sleep(timedelta(hours=10, minutes=1).total_seconds())
    done = site.outcome(run)
    assert done.state == "succeeded"
    assert done.event("run.resumed").caused_by == "the window opened"
    assert site.rows("SELECT DISTINCT n FROM t") == [(1,)]


@pytest.mark.parametrize("job", [Increment, IncrementInPython])
def test_a_window_that_closes_in_mid_run_ends_it_after_the_batch_in_hand(
    site: Worksite, job: type[Job]
) -> None:
    site.numbers(50)
    clock = FakeClock(datetime(2026, 7, 1, 5, 59, tzinfo=UTC))
    close = AtVisit("before COMMIT", 2, lambda: clock.sleep(120))
    run = site.enqueue(job, options=BY_TEN)
    with site.crew(job, run, clock=clock, pace=_pace(clock), probe=close):
        paused = site.until_state(run, "paused")
        assert paused.counts.written == 20
        until(
            lambda: not site.rows("SELECT FROM backfill.slice WHERE holder IS NOT NULL"),
            what="the slice to be given back",
        )
        clock.sleep(timedelta(hours=16).total_seconds())
    assert site.outcome(run).state == "succeeded"
    assert site.rows("SELECT DISTINCT n FROM t") == [(1,)]


def test_the_window_opens_for_no_other_cause(site: Worksite) -> None:
    """I7: a run that somebody paused, too, stays paused; its threads end."""
    site.numbers(50)
    clock = FakeClock(datetime(2026, 7, 1, 12, 0, tzinfo=UTC))
    run = site.enqueue(Increment, options=BY_TEN)
    with site.crew(Increment, run, clock=clock, pace=_pace(clock)):
        site.until_state(run, "paused")
        site.pause(run, PauseCause.USER)
    paused = site.outcome(run)
    assert {pause.cause for pause in paused.pauses} == {"window", "user"}
    clock.sleep(timedelta(hours=11).total_seconds())
    assert site.work(Increment, run, clock=clock, pace=_pace(clock)).state == "paused"
    assert [p.cause for p in site.outcome(run).pauses] == ["user"]
    site.lift(run, PauseCause.USER)
    assert site.work(Increment, run, clock=clock, pace=_pace(clock)).state == "succeeded"


@pytest.mark.parametrize("job", [Increment, IncrementInPython])
@pytest.mark.parametrize("per_second", [100, 2_000])
def test_a_run_keeps_to_its_rate(site: Worksite, job: type[Job], per_second: int) -> None:
    """By waiting between batches, never within one; small batches, so that it is even."""
    rows = per_second * 10
    site.numbers(rows)
    clock = FakeClock(datetime(2026, 7, 1, 12, 0, tzinfo=UTC))
    pace = Pace(clock, Options(rate=f"{per_second}/s"), limiter=LocalLimiter(clock))
    done = site.run(job, clock=clock, pace=pace, options=Options(rate=f"{per_second}/s"))
    assert done.state == "succeeded"
    assert done.counts.written == rows
    # the clock goes on only while the run sleeps, so this is the whole of its time
    assert clock.seconds == pytest.approx(10, rel=0.1)
    assert max(clock.slept) <= 0.25


def test_a_lease_is_renewed_while_the_run_waits_for_its_rate(site: Worksite) -> None:
    """I3: a slow rate is no lost worker: the slice stays with its first holder."""
    site.numbers(40)
    clock = FakeClock(datetime(2026, 7, 1, 12, 0, tzinfo=UTC))
    pace = Pace(clock, Options(rate="1/s"), limiter=LocalLimiter(clock))
    renewed: list[bool] = []

    def shorten(point: str) -> None:
        """The batch before left a lease; what is found by the next one comes from a heartbeat."""
        if point == "after COMMIT":
            site.execute("UPDATE backfill.slice SET lease_until = 'infinity'")
        elif point == "before the page":
            renewed.append(site.value("SELECT lease_until < 'infinity' FROM backfill.slice"))

    done = site.run(Increment, clock=clock, pace=pace, probe=shorten)
    assert done.state == "succeeded"
    assert site.value("SELECT epoch FROM backfill.slice") == 1
    assert renewed == [True] * 40
