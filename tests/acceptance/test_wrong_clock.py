"""A worker's wall clock jumps by days, both ways, in mid-run: nothing of a run goes by it.

Leases and rounds, the rate, the hours of a run, its completion. Celery does look at it (messages
that nobody acknowledged, heartbeats): whatever it makes of a jump, messages are hints (I3).
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from backfill.events import Event
from backfill.job import Options
from backfill.model import RunState
from tests.acceptance.conftest import MakeCrew
from tests.acceptance.crew import QUICK, Crew, each_row_once

ROWS = 6_000
RATE = 600
DAY = 86_400
#: Then what ought to go by the database's clock goes by a clock that is days away.
JUMPS = (2 * DAY, -2 * DAY, 0, 3_600, -3_600)

JOBS = f"""
class Count(Job):
    source = Table("item", columns=["n"])
    target = Update("n")
    options = Options(batch_rows=50, slice_rows=500, concurrency=2, rate="{RATE}/s")

    def transform(self, row):
        return {{"n": row.n + 1}}
"""


@pytest.fixture
def jumpy(make_crew: MakeCrew) -> Crew:
    """Two workers of one child each, whose clocks are set by `set_clock`."""
    crew = make_crew(engine={**QUICK, "lease_seconds": 3})
    crew.conn.execute("CREATE TABLE item (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    crew.conn.execute("INSERT INTO item (id) SELECT generate_series(1, %s)", [ROWS])
    crew.conn.execute("ANALYZE item")
    crew.write_jobs(JOBS)
    crew.add_environment(CREW_CLOCK=str(crew.folder / "clock"))
    crew.keep_alive(2)
    crew.wait_for_workers(*crew.workers)
    return crew


def set_clock(crew: Crew, seconds: float) -> None:
    """The workers' wall clocks are so many seconds ahead from now on."""
    new = crew.folder / "clock.new"
    new.write_text(str(seconds))
    new.rename(crew.folder / "clock")


def test_a_run_goes_on_by_the_databases_clock_while_the_workers_jump(jumpy: Crew) -> None:
    crew, now = jumpy, datetime.now(UTC)
    hours = Options(
        start_at=(now - timedelta(hours=1)).isoformat(),
        until=(now + timedelta(hours=1)).isoformat(),
        batch_rows=50,
        slice_rows=500,
        concurrency=2,
        rate=f"{RATE}/s",
    )
    run = crew.enqueue("count", options=hours)
    crew.wait_for_rows(run, 300)
    began, first = time.monotonic(), crew.counts(run).settled
    for seconds in JUMPS:
        set_clock(crew, seconds)
        crew.wait_for_rows(run, crew.counts(run).settled + 500)
        assert crew.state(run) is RunState.RUNNING, crew.told()
    # a bucket's fill comes on top, and each batch is paid for before it is done
    done, took = crew.counts(run).settled - first, time.monotonic() - began
    assert done <= RATE * (took + 1.5), f"{done} rows in {took:.1f} s"
    assert shown_by_workers(crew) >= 2 * DAY - 60, "no clock has jumped"
    names = {event.name for event in crew.events(run)}
    assert not names & {Event.RUN_PAUSED, Event.SLICE_FREED}, "a lease ran out, or a window closed"

    # whose holder dies is freed when its lease has run out, by a reconciler that is a day ahead
    set_clock(crew, DAY)
    crew.order("kill worker", "before COMMIT")
    crew.wait(lambda: crew.is_obeyed("kill worker", "before COMMIT"), "a holder dies")
    died = time.monotonic()
    set_clock(crew, -DAY)
    crew.wait(
        lambda: Event.SLICE_FREED in {event.name for event in crew.events(run)},
        "its slice is freed",
    )
    # the last batch renewed it a moment before
    assert time.monotonic() - died > 1.5, "before its lease had run out"
    crew.hurry(run)
    crew.wait_for(run, RunState.SUCCEEDED)
    each_row_once(crew, "item", ["n"], ROWS)
    counts = crew.counts(run)
    assert (counts.paged, counts.written) == (ROWS, ROWS)
    assert Event.RUN_PAUSED not in {event.name for event in crew.events(run)}


def shown_by_workers(crew: Crew) -> float:
    """How many seconds apart the times are that workers wrote into their logs."""
    stamps = [
        datetime.fromisoformat(line["timestamp"])
        for worker in crew.workers
        for line in worker.logged(Event.BATCH_COMMITTED)
    ]
    return (max(stamps) - min(stamps)).total_seconds()
