"""What people do to a run while workers work on it, and what workers do when they cannot."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from backfill.engine import control, lifecycle
from backfill.events import Event
from backfill.job import Options
from backfill.model import PauseCause, RunState
from tests.acceptance.crew import Crew, each_row_once

ROWS = 20_000

JOBS = """
class Count(Job):
    source = Table("item")
    transform = Sql(n="n + 1")
    target = Update()
    options = Options(batch_rows=200, slice_rows=2_000, concurrency=2, rate="4000/s")
"""


@pytest.fixture
def project(crew: Crew) -> Crew:
    """A table and a job; no worker yet."""
    crew.conn.execute("CREATE TABLE item (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    crew.conn.execute(b"INSERT INTO item (id) SELECT i FROM generate_series(1, %s) i", [ROWS])
    crew.write_jobs(JOBS)
    return crew


@pytest.fixture
def working(project: Crew) -> Crew:
    """Two workers of two children each."""
    project.keep_alive(2, children=2)
    project.wait_for_workers(*project.workers)
    return project


def ends_once(crew: Crew, run: str) -> None:
    """The run succeeds, and each row was counted once."""
    crew.hurry(run)
    crew.wait_for(run, RunState.SUCCEEDED)
    each_row_once(crew, "item", ["n"], ROWS)


def pause(crew: Crew, run: str) -> None:
    lifecycle.pause(
        crew.desk.conn,
        crew.desk.ledger,
        run,
        PauseCause.USER,
        reason="for lunch",
        ends="`backfill resume`",
        by="a person",
    )


def resume(crew: Crew, run: str, cause: PauseCause = PauseCause.USER) -> None:
    assert lifecycle.lift(crew.desk.conn, crew.desk.ledger, run, [cause], by="a person")


def test_a_paused_run_stands_still_until_it_is_resumed(working: Crew) -> None:
    run = working.enqueue("count")
    for part in (1, 2, 3):
        working.wait_for_rows(run, part * ROWS // 5)
        pause(working, run)
        working.wait(lambda: not working.held(run), "nobody works")
        before = working.counts(run)
        time.sleep(1.0)  # three rounds of the reconciler
        assert working.counts(run) == before
        assert working.causes(run) == {PauseCause.USER}
        resume(working, run)
    ends_once(working, run)
    told = [
        (event.name, event.caused_by)
        for event in working.events(run)
        if event.name in {Event.RUN_PAUSED, Event.RUN_RESUMED}
    ]
    assert told == [(Event.RUN_PAUSED, "a person"), (Event.RUN_RESUMED, "a person")] * 3  # I7


def test_when_cancel_returns_nothing_is_written_any_more(working: Crew) -> None:
    run = working.enqueue("count")
    working.wait_for_rows(run, ROWS // 5)
    lifecycle.cancel(working.desk.conn, working.desk.ledger, run, reason="a mistake", by="a person")
    ((written,),) = working.query("SELECT count(*) FROM item WHERE n = 1")
    assert working.counts(run).written == written  # I1: also in the moment of the end
    working.wait(lambda: not working.held(run), "nobody works")
    time.sleep(1.0)
    assert working.query("SELECT count(*), max(n) FROM item WHERE n > 0") == [(written, 1)]
    assert working.state(run) is RunState.CANCELLED
    again = working.enqueue("count")  # a cancelled run is in nobody's way
    working.wait_for(again, RunState.SUCCEEDED)
    assert working.query("SELECT sum(n) FROM item") == [(ROWS + int(str(written)),)]


@pytest.mark.slow
def test_a_window_closes_in_mid_run_and_the_reconciler_opens_it_again(working: Crew) -> None:
    """Windows end on whole minutes: one run waits for the next one, another one is cut by it."""
    if datetime.now(UTC).second > 45:
        time.sleep(16)  # the run below is to work for a while before the minute is over
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    next_minute, later = now + timedelta(minutes=1), now + timedelta(minutes=9)
    before = Options(
        batch_rows=100,
        slice_rows=2_000,
        rate="150/s",
        window=f"{now:%H:%M}-{next_minute:%H:%M} UTC",
    )
    after = Options(batch_rows=200, window=f"{next_minute:%H:%M}-{later:%H:%M} UTC")
    working.conn.execute("CREATE TABLE other AS SELECT * FROM item")
    working.conn.execute("ALTER TABLE other ADD PRIMARY KEY (id)")
    working.write_jobs(
        JOBS + JOBS.replace('"item"', '"other"').replace("Count(Job)", "CountOther(Job)")
    )
    working.keep_alive(3, children=2)  # the earlier ones have imported the old module, maybe

    cut = working.enqueue("count", options=before)
    waits = working.enqueue("count_other", options=after)
    working.wait_for(waits, RunState.PAUSED)
    assert working.causes(waits) == {PauseCause.WINDOW}
    assert working.counts(waits).paged == 0
    working.wait_for_rows(cut, 200)
    assert working.state(cut) is RunState.RUNNING

    working.wait_for(cut, RunState.PAUSED, seconds=90)
    assert datetime.now(UTC) >= next_minute
    assert working.causes(cut) == {PauseCause.WINDOW}
    working.wait_for(waits, RunState.SUCCEEDED)
    resumed = [event for event in working.events(waits) if event.name == Event.RUN_RESUMED]
    assert [event.caused_by for event in resumed] == ["the window opened"]
    each_row_once(working, "other", ["n"], ROWS)

    # an operator takes the window away: the reconciler sees that, too
    working.conn.execute(
        b'UPDATE backfill.run SET options = options || \'{"window": null, "rate": null}\''
        b" WHERE id = %s",
        [cut],
    )
    ends_once(working, cut)


@pytest.mark.slow
def test_a_rate_is_kept_by_all_workers_together(
    working: Crew, record_property: Callable[[str, object], None]
) -> None:
    rate = 1_500
    run = working.enqueue(
        "count", options=Options(batch_rows=100, slice_rows=2_000, concurrency=4, rate=f"{rate}/s")
    )
    working.wait_for_rows(run, 1)
    samples: list[tuple[float, int]] = []
    at_work: list[int] = []
    while len(samples) < 2 or samples[-1][0] - samples[0][0] < 11:
        ((at, rows, holders),) = working.query(
            "SELECT extract(epoch FROM clock_timestamp())::float8, sum(paged)::int, count(holder)"
            " FROM backfill.slice WHERE run = %s",
            run,
        )
        samples.append((float(str(at)), int(str(rows))))
        at_work.append(int(str(holders)))
        time.sleep(0.05)
    speeds = [
        (rows - rows_before) / (at - before)
        for (before, rows_before), (at, rows) in itertools.combinations(samples, 2)
        if at - before >= 10
    ]
    assert speeds
    record_property("rows_per_second", round(max(speeds)))
    print(f"{min(speeds):,.0f} to {max(speeds):,.0f} rows/s at a rate of {rate:,}/s")
    assert max(speeds) <= rate
    assert min(speeds) >= rate / 2  # goal: 0.9 of it
    assert max(at_work) == 4, "not all children worked"
    working.conn.execute(
        b"UPDATE backfill.run SET options = options || '{\"rate\": null}' WHERE id = %s", [run]
    )
    ends_once(working, run)  # the changed option is seen while it runs


def test_a_job_that_changes_in_mid_run_pauses_it_until_the_change_is_accepted(
    project: Crew,
) -> None:
    old = project.start(2)
    run = project.enqueue("count")
    project.wait_for_rows(run, ROWS // 5)
    old.terminate()
    assert old.wait(50) == 0
    project.write_jobs(JOBS.replace("n + 1", "n + 1 + 0"))
    project.start(2)
    project.wait_for(run, RunState.PAUSED)
    assert project.causes(run) == {PauseCause.CHANGED_JOB}
    project.wait(lambda: not project.held(run), "the slices were returned")
    before = project.counts(run)

    declaration = project.project.declaration("count")
    control.accept_changes(
        project.desk.conn,
        project.desk.ledger,
        run,
        fingerprint=declaration.fingerprint(),
        declaration=declaration.describe(),
        version=declaration.version,
        by="a person",
    )
    assert project.counts(run) == before
    resume(project, run, PauseCause.CHANGED_JOB)
    ends_once(project, run)


@pytest.mark.parametrize(
    ("jobs", "reason"),
    [
        (
            "class Another(Job):\n    source = Table('item')\n    target = Delete()\n",
            "no job count",
        ),
        ("import module_that_is_missing\n", "module_that_is_missing"),
    ],
    ids=["job missing", "module broken"],
)
def test_a_worker_that_cannot_import_the_job_says_so_and_the_run_waits_for_one_that_can(
    project: Crew, jobs: str, reason: str
) -> None:
    run = project.enqueue("count")
    project.write_jobs(jobs)
    old = project.start()
    project.wait_for(run, RunState.PAUSED)
    assert project.causes(run) == {PauseCause.ERROR}
    ((told, ends),) = project.query("SELECT reason, ends FROM backfill.pause WHERE run = %s", run)
    assert reason in f"{told} {ends}"
    old.terminate()
    assert old.wait(50) == 0
    project.write_jobs(JOBS)
    project.start()
    resume(project, run, PauseCause.ERROR)
    ends_once(project, run)


def test_a_run_enqueued_without_any_worker_is_taken_up_by_the_first_that_starts(
    project: Crew,
) -> None:
    run = project.enqueue("count")
    progress = project.project.progress(project.desk, run, checkpoint=None)
    assert progress.limited_by == "no worker is running: start one with `backfill worker`"
    project.start(2)
    ends_once(project, run)


def test_a_worker_started_by_the_command_line_does_all_of_this(project: Crew) -> None:
    worker = project.start(2, as_users_do=True)
    run = project.enqueue("count")
    ends_once(project, run)
    worker.terminate()
    assert worker.wait(50) == 0
    written = sum(line["written"] for line in worker.logged(Event.BATCH_COMMITTED))
    assert written == ROWS  # one line of JSON for each batch, where no terminal is


def test_a_run_is_tuned_on_all_workers_within_two_seconds(working: Crew) -> None:
    """Two slots on two workers wait for hours for a slow rate; then both are to go fast."""
    run = working.enqueue("count", options=Options(rate="6/h", slice_rows=2_000, concurrency=2))
    working.wait(lambda: working.held(run) == 2, "both slots to be filled")
    begun = "SELECT FROM backfill.slice WHERE number <= 2 AND paged > 0"
    assert not working.query(begun)
    began = time.monotonic()
    control.tune(
        working.desk.conn, working.desk.ledger, run, {"rate": "none", "batch_rows": "50"}, by="Ada"
    )
    working.wait(lambda: len(working.query(begun)) == 2, "a batch of each slot")
    assert time.monotonic() - began <= 2.0
    ends_once(working, run)
