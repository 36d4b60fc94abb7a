"""A signal of the project's own, measured by workers, stops a run, slows it, and lets it go on."""

from __future__ import annotations

import pytest

from backfill.events import Event
from backfill.job import Options
from backfill.model import PauseCause, RunState
from backfill.watch.progress import Progress
from tests.acceptance.crew import Crew, each_row_once

ROWS = 20_000

JOBS = """
class Count(Job):
    source = Table("item")
    transform = Sql(n="n + 1")
    target = Update()
    options = Options(batch_rows=200, slice_rows=2_000, concurrency=2, rate="4000/s")
"""

SETTINGS = """
jobs = ["{jobs}"]
[engine]
lease_seconds = 2
reconcile_seconds = 0.3
task_seconds = 1
sample_seconds = 0.2
signals_stale_seconds = 3
[databases.default]
url_env = "BACKFILL_DATABASE_URL"
[databases.default.signals]
knob = {{ sql = "SELECT value FROM knob", stop = 10, resume = 5, unit = "turns" }}
"""


@pytest.fixture
def project(crew: Crew) -> Crew:
    """A table, a job, and a knob that is a signal; no worker yet."""
    crew.conn.execute("CREATE TABLE item (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    crew.conn.execute(b"INSERT INTO item (id) SELECT i FROM generate_series(1, %s) i", [ROWS])
    crew.conn.execute("CREATE TABLE knob AS SELECT 1 AS value")
    crew.write_jobs(JOBS)
    settings = SETTINGS.format(jobs=crew.package)
    (crew.folder / "backfill.toml").write_text(settings, encoding="utf-8")
    return crew


def turn(crew: Crew, value: int) -> None:
    crew.conn.execute(b"UPDATE knob SET value = %s", [value])


def shown(crew: Crew, run: str) -> Progress:
    return crew.project.progress(crew.desk, run, checkpoint=None)


def stands_still(crew: Crew, run: str) -> None:
    """It is paused for its signals, and when the batches in hand are done nothing is written."""
    crew.wait(lambda: crew.causes(run) == {PauseCause.SIGNAL}, "its signals pause it")
    crew.wait(lambda: not crew.held(run), "nobody works")
    before = crew.counts(run)
    ((at,),) = crew.query("SELECT max(at) FROM backfill.signal")
    crew.wait(
        lambda: crew.query(
            "SELECT FROM backfill.signal WHERE at > %s::timestamptz + interval '1 second'", at
        ),
        "a second of samples",
    )
    assert crew.counts(run) == before


def test_a_signal_stops_a_run_slows_it_and_lets_it_go_on_over_workers(project: Crew) -> None:
    for worker in (project.start(2, wait=False), project.start(2, wait=False)):
        assert worker.is_alive
    project.wait_for_workers(*project.workers)
    run = project.enqueue("count")
    project.wait_for_rows(run, ROWS // 10)

    turn(project, 42)
    stands_still(project, run)
    progress = shown(project, run)
    assert (
        progress.limited_by == "signal: knob = 42 turns (stops at 10 turns, goes on below 5 turns)"
    )
    assert progress.pauses[0].ends == "by itself when knob is below 5 turns"
    told = next(signal for signal in progress.to_json()["signals"] if signal["name"] == "knob")
    assert (told["value"], told["unit"], told["state"]) == (42, "turns", "stop")

    turn(project, 7)  # between the two: hysteresis keeps it
    stands_still(project, run)
    turn(project, 1)
    project.wait(lambda: not project.causes(run), "it goes on")
    rows = project.counts(run).settled
    turn(project, 7)  # now it is slow, and works
    project.wait(
        lambda: (
            "knob = 7 turns (slows from 5 turns, stops at 10 turns): 5 % of full speed"
            in shown(project, run).limited_by
        ),
        "it says that the knob slows it",
    )
    project.wait_for_rows(run, rows + 1)

    turn(project, 1)
    project.conn.execute("ALTER TABLE knob RENAME TO knob_away")
    stands_still(project, run)
    assert "signal: knob cannot be read" in shown(project, run).limited_by
    project.conn.execute("ALTER TABLE knob_away RENAME TO knob")

    project.wait_for(run, RunState.SUCCEEDED)
    each_row_once(project, "item", ["n"], ROWS)
    assert project.query("SELECT count(*) FROM backfill.signal") == [(0,)]
    names = [event.name for event in project.events(run)]
    assert names.count(Event.RUN_PAUSED) == names.count(Event.RUN_RESUMED) == 2
    assert Event.RUN_SLOWED in names


def test_a_run_that_nobody_measures_any_more_stops_until_somebody_does(project: Crew) -> None:
    """Fail closed: the sampler hangs with its process, while the children could work on."""
    settings = (project.folder / "backfill.toml").read_text(encoding="utf-8")
    (project.folder / "backfill.toml").write_text(
        settings.replace("task_seconds = 1", "task_seconds = 60"), encoding="utf-8"
    )
    worker = project.start(2)
    run = project.enqueue("count", options=Options(batch_rows=50, slice_rows=2_000, rate="800/s"))
    project.wait(
        lambda: project.query("SELECT FROM backfill.signal WHERE name = 'knob' AND value = 1"),
        "it is measured",
    )
    project.wait_for_rows(run, 1)
    worker.stop_main()
    project.wait(lambda: project.causes(run) == {PauseCause.SIGNAL}, "the children stop it")
    assert "last measured" in shown(project, run).limited_by
    worker.go_on()
    project.wait(lambda: not project.causes(run), "it is measured again, and goes on")
    settled = project.counts(run).settled
    project.wait_for_rows(run, settled + 1)


def test_another_worker_samples_when_the_one_that_did_is_killed(project: Crew) -> None:
    workers = [project.start(1), project.start(1)]
    project.conn.execute("UPDATE knob SET value = 42")
    run = project.enqueue("count")
    project.wait(lambda: project.causes(run) == {PauseCause.SIGNAL}, "it is stopped")
    ((name,),) = project.query("SELECT sampler FROM backfill.ledger")
    (first,) = [worker for worker in workers if str(name).startswith(f"{worker.name}@")]
    first.kill()
    turn(project, 1)
    project.wait_for(run, RunState.SUCCEEDED)
    each_row_once(project, "item", ["n"], ROWS)
