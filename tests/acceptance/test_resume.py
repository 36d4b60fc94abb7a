"""Another worker goes on where one ended; goals of the settings that we ship, with wide bounds."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from backfill.events import Event
from backfill.model import RunState
from tests.acceptance.conftest import MakeCrew
from tests.acceptance.crew import SHIPPED, Crew, Worker, each_row_once

ROWS = 60_000
#: The goals, in seconds; tests allow five times as much.
TAKEOVER_GOAL = 15.0
EXIT_GOAL = 10.0

Record = Callable[[str, object], None]

JOBS = """
class Count(Job):
    source = Table("item")
    transform = Sql(n="n + 1")
    target = Update()
    options = Options(batch_rows=200, slice_rows=60_000, concurrency=1, rate="3000/s")
"""


@pytest.fixture
def two_workers(make_crew: MakeCrew) -> Crew:
    """Two workers of one child each, one slice, one slot, and the times that we ship."""
    crew = make_crew(engine=SHIPPED)
    crew.conn.execute("CREATE TABLE item (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    crew.conn.execute(b"INSERT INTO item (id) SELECT i FROM generate_series(1, %s) i", [ROWS])
    crew.write_jobs(JOBS)
    crew.keep_alive(2)
    crew.wait_for_workers(*crew.workers)
    return crew


def holder_of(crew: Crew) -> Worker | None:
    """The worker that holds the slice now."""
    for (holder,) in crew.query("SELECT holder FROM backfill.slice WHERE holder IS NOT NULL"):
        pid = int(str(holder).rsplit(":", 1)[1].split(".")[0])
        return next((worker for worker in crew.alive if pid in worker.children), None)
    return None


def at_work(crew: Crew, run: str) -> Worker:
    """The worker that holds the slice, in the middle of it."""
    crew.wait_for_rows(run, crew.counts(run).settled + 2_000)
    crew.wait(lambda: holder_of(crew) is not None, "somebody works")
    worker = holder_of(crew)
    while worker is None:  # between two tasks
        worker = holder_of(crew)
    return worker


@pytest.mark.slow
def test_a_killed_workers_slice_goes_on_within_15_seconds(
    two_workers: Crew, record_property: Record
) -> None:
    crew = two_workers
    run = crew.enqueue("count")
    victim = at_work(crew, run)
    victim.kill()
    before = crew.counts(run).settled
    seconds = crew.wait(
        lambda: crew.counts(run).settled > before,
        "its slice goes on",
        seconds=5 * TAKEOVER_GOAL,
    )
    record_property("takeover_seconds", round(seconds, 1))
    print(f"the killed worker's slice went on after {seconds:.1f} s (goal: {TAKEOVER_GOAL:.0f})")
    crew.hurry(run)
    crew.wait_for(run, RunState.SUCCEEDED)
    each_row_once(crew, "item", ["n"], ROWS)
    assert Event.SLICE_FREED in {event.name for event in crew.events(run)}  # I7


@pytest.mark.slow
def test_a_worker_that_is_told_to_end_finishes_its_batch_and_returns_its_slice_at_once(
    two_workers: Crew, record_property: Record
) -> None:
    crew = two_workers
    run = crew.enqueue("count")
    leaving = at_work(crew, run)
    (before,) = crew.query("SELECT epoch, written FROM backfill.slice")
    began = time.monotonic()
    leaving.terminate()
    crew.wait(
        lambda: crew.query("SELECT FROM backfill.slice WHERE epoch > %s", before[0]),
        "another takes the slice",
        seconds=5 * EXIT_GOAL,
    )
    record_property("returned_and_taken_seconds", round(time.monotonic() - began, 2))
    assert leaving.wait(5 * EXIT_GOAL) == 0
    seconds = time.monotonic() - began
    record_property("exit_seconds", round(seconds, 2))
    print(f"the worker ended after {seconds:.1f} s (goal: {EXIT_GOAL:.0f})")
    names = [event.name for event in crew.events(run)]
    assert Event.SLICE_FREED not in names, "its lease had to run out"
    assert Event.BATCH_FAILED not in leaving.log.read_text(), "its batch was cut off"
    assert leaving.name not in {
        str(name).split("@")[0] for (name,) in crew.query("SELECT name FROM backfill.worker")
    }
    crew.hurry(run)
    crew.wait_for(run, RunState.SUCCEEDED)
    each_row_once(crew, "item", ["n"], ROWS)


@pytest.mark.slow
def test_the_last_worker_may_end_and_a_later_one_goes_on(two_workers: Crew) -> None:
    crew = two_workers
    run = crew.enqueue("count")
    at_work(crew, run)
    for worker in crew.alive:
        worker.terminate()
    for worker in crew.workers:
        assert worker.wait(5 * EXIT_GOAL) == 0
    before = crew.counts(run)
    assert before.written < ROWS
    assert not crew.held(run)
    assert (
        "no worker is running" in crew.project.progress(crew.desk, run, checkpoint=None).limited_by
    )
    crew.start()
    crew.hurry(run)
    crew.wait_for(run, RunState.SUCCEEDED)
    each_row_once(crew, "item", ["n"], ROWS)
