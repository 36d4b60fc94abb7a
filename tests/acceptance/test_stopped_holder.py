"""I3: a holder that stands still beyond its lease loses its slice, and cannot commit afterwards."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from backfill.events import Event
from backfill.model import RunState
from tests.acceptance.conftest import MakeCrew
from tests.acceptance.crew import SHIPPED, Crew, Worker, each_row_once

ROWS = 30_000

JOBS = """
class Count(Job):
    source = Table("item", columns=["n"])
    target = Update("n")
    options = Options(batch_rows=200, slice_rows=30_000, concurrency=1, rate="3000/s")

    def transform(self, row):
        return {"n": row.n + 1}
"""


@pytest.fixture
def two_workers(make_crew: MakeCrew) -> Crew:
    """Two workers of one child each, one slice, and the times that we ship.

    But for a task's: a holder that goes on must want to go on with its slice.
    """
    crew = make_crew(engine={**SHIPPED, "task_seconds": 60})
    crew.conn.execute("CREATE TABLE item (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    crew.conn.execute(b"INSERT INTO item (id) SELECT i FROM generate_series(1, %s) i", [ROWS])
    crew.write_jobs(JOBS)
    crew.keep_alive(2)
    crew.wait_for_workers(*crew.workers)
    return crew


def is_stopped(pid: int) -> bool:
    """The kernel says that it stands still."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.slow
@pytest.mark.parametrize("who", ["child", "worker"])
@pytest.mark.parametrize(
    ("point", "where"),
    [
        ("before COMMIT", "in a transaction"),
        ("before the page", "in a transaction"),
        ("before the checkpoint", "between two"),
    ],
)
def test_a_stopped_holder_loses_its_slice_and_commits_nothing_when_it_goes_on(
    two_workers: Crew,
    who: str,
    point: str,
    where: str,
    record_property: Callable[[str, object], None],
) -> None:
    crew = two_workers
    run = crew.enqueue("count")
    crew.wait_for_rows(run, 1_000)
    crew.order(f"stop {who}", point)
    crew.wait(lambda: (pid := crew.stopped()) is not None and is_stopped(pid), "one stands still")
    stopped = crew.stopped()
    assert stopped is not None
    backend_was_open = where == "in a transaction"
    assert bool(open_batches(crew)) is backend_was_open
    (before,) = crew.query("SELECT epoch, written FROM backfill.slice WHERE run = %s", run)

    # the idle time-out ended its transaction, the lease ran out, the other worker took the slice
    seconds = crew.wait(
        lambda: crew.query(
            "SELECT FROM backfill.slice WHERE run = %s AND epoch > %s AND written > %s",
            run,
            *before,
        ),
        "the slice goes on under a new epoch",
        seconds=5 * 15,
    )
    record_property("slice_went_on_after_seconds", round(seconds, 1))
    print(f"the slice went on after {seconds:.1f} s")
    assert is_stopped(stopped), "it went on by itself"

    os.kill(stopped, signal.SIGCONT)
    for worker in crew.workers:
        worker.go_on()
    if not backend_was_open:
        crew.wait(lambda: was_told(crew), "the holder tries to go on, and is told")
    crew.hurry(run)
    crew.wait_for(run, RunState.SUCCEEDED)
    each_row_once(crew, "item", ["n"], ROWS)
    assert crew.counts(run).written == ROWS
    assert sum(commits_only_what_it_took(worker) for worker in crew.workers) >= ROWS / 200
    freed = [event for event in crew.events(run) if event.name == Event.SLICE_FREED]
    assert freed, "I7: nobody was told"


def was_told(crew: Crew) -> bool:
    """A worker gave a slice back because it is another's."""
    returned = [line for worker in crew.workers for line in worker.logged(Event.SLICE_RETURNED)]
    return any("newer epoch" in line["why"] for line in returned)


def commits_only_what_it_took(worker: Worker) -> int:
    """No batch was committed under an epoch that this worker was not given; says how many were."""
    batches = 0
    taken: tuple[int, int] | None = None
    for line in worker.logged(Event.SLICE_TAKEN, Event.BATCH_COMMITTED):
        if line["event"] == Event.SLICE_TAKEN:
            taken = (line["slice"], line["epoch"])
        else:
            batches += 1
            assert (line["slice"], line["epoch"]) == taken
    return batches


def open_batches(crew: Crew) -> list[tuple[object, ...]]:
    """Backends that are in a batch."""
    return crew.query(
        "SELECT pid FROM pg_stat_activity WHERE application_name LIKE %s"
        " AND datname = current_database() AND state = 'idle in transaction'",
        "%count-%",
    )
