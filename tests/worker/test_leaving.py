"""What a worker's processes give back: when a run has ended, and when they end themselves."""

from __future__ import annotations

import pytest

from backfill.model import RunState
from tests.acceptance.crew import Crew

JOBS = """
import os
from pathlib import Path

def say(what):
    with Path({log!r}).open("a") as log:
        log.write(f"{{what}} {{os.getpid()}}\\n")

class Count(Job):
    source = Table("item")
    transform = Sql(n="n + 1")
    target = Update()
    options = Options(batch_rows=20, slice_rows=100, concurrency=1, rate={rate!r})

    def setup(self, conn):
        say("setup")

    def teardown(self):
        say("teardown")
"""


def said(crew: Crew) -> list[str]:
    """What the job's hooks have said."""
    log = crew.folder / "hooks.txt"
    return log.read_text().splitlines() if log.exists() else []


def write_jobs(crew: Crew, *, rate: str | None) -> None:
    crew.write_jobs(JOBS.format(log=str(crew.folder / "hooks.txt"), rate=rate))


def test_whoever_brings_a_run_to_its_end_leaves_it(crew: Crew) -> None:
    write_jobs(crew, rate=None)
    worker = crew.start(1, as_users_do=True)
    for runs in (1, 2):
        run = crew.enqueue("count")
        crew.wait_for(run, RunState.SUCCEEDED)
        crew.wait(lambda n=runs: len(said(crew)) == 2 * n, "the job's teardown is called")  # type: ignore[misc]
    assert [line.split()[0] for line in said(crew)] == ["setup", "teardown"] * 2
    worker.terminate()
    assert worker.wait(30) == 0


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_worker_that_ends_in_good_order_leaves_its_runs(crew: Crew, pool: str) -> None:
    write_jobs(crew, rate="20/s")
    worker = crew.start(2, as_users_do=True, pool=pool)
    run = crew.enqueue("count")
    crew.wait_for_rows(run, 20)
    worker.terminate()
    assert worker.wait(30) == 0
    set_up = [line.split()[1] for line in said(crew) if line.startswith("setup")]
    torn_down = [line.split()[1] for line in said(crew) if line.startswith("teardown")]
    assert set_up
    assert sorted(torn_down) == sorted(set_up)
    assert crew.state(run) is RunState.RUNNING
