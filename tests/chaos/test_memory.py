"""A job that eats memory: Celery gives its place a new process between two tasks (I1, I3).

Where the system's out-of-memory killer comes first, that is a SIGKILL: test_storm.py.
"""

from __future__ import annotations

import pytest

from backfill.events import Event
from backfill.model import RunState
from tests.acceptance.conftest import MakeCrew
from tests.acceptance.crew import each_row_once

ROWS = 6_000

#: Each batch keeps 20 MB for good.
JOBS = """
class Hoard(Job):
    source = Table("item", columns=["n"])
    target = Update("n")
    options = Options(batch_rows=100, slice_rows=6_000, concurrency=1, rate="1500/s")
    kept = []

    def transform_batch(self, rows):
        self.kept.append(b"x" * 20_000_000)
        return [{"n": row.n + 1} for row in rows]
"""


@pytest.mark.slow
def test_a_child_that_has_grown_is_replaced_and_loses_nothing(make_crew: MakeCrew) -> None:
    crew = make_crew()
    crew.conn.execute("CREATE TABLE item (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    crew.conn.execute("INSERT INTO item (id) SELECT generate_series(1, %s)", [ROWS])
    crew.write_jobs(JOBS)
    crew.add_environment(CREW_CELERY="--max-memory-per-child=250000")
    worker = crew.start()
    run = crew.enqueue("hoard")
    seen: set[int] = set()

    def has_succeeded() -> bool:
        seen.update(worker.children)
        return crew.state(run) is RunState.SUCCEEDED

    crew.wait(has_succeeded, "it is done")
    assert len(seen) >= 3, "no child was replaced"
    assert worker.is_alive
    each_row_once(crew, "item", ["n"], ROWS)
    told = {event.name for event in crew.events(run)}
    assert Event.SLICE_FREED not in told, "a lease had to run out"
    assert Event.RUN_PAUSED not in told
