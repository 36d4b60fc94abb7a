"""I1: `n = n + 1` happens exactly once to every row, however often and wherever workers die."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable

import pytest

from backfill.model import RunState
from tests.acceptance.crew import POINTS, Crew, each_row_once

ROWS = 100_000
WORKERS = 4

KEYS = {
    "bigint": ("id bigint PRIMARY KEY", "i"),
    "uuid": ("id uuid PRIMARY KEY", "gen_random_uuid()"),
    "composite": ("region text, number int, PRIMARY KEY (region, number)", "'r' || i % 7, i"),
}
# Two runs on one table: they also meet each other's locks. The rate makes a run long enough to be
# killed many times.
JOBS = """
options = Options(batch_rows=250, slice_rows=5_000, concurrency=4, rate="6000/s")

class CountInSql(Job):
    source = Table("item")
    transform = Sql(by_sql="by_sql + 1")
    target = Update()
    options = options

class CountInPython(Job):
    source = Table("item", columns=["by_python"])
    target = Update("by_python")
    options = options

    def transform(self, row):
        return {"by_python": row.by_python + 1}
"""


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_every_row_is_counted_once_though_workers_are_killed_at_every_point(
    crew: Crew, key: str, record_property: Callable[[str, object], None]
) -> None:
    seed = int(os.environ.get("CREW_SEED", random.randrange(2**32)))
    print(f"CREW_SEED={seed}")
    record_property("seed", seed)
    chance = random.Random(seed)
    definition, values = KEYS[key]
    crew.conn.execute(
        f"CREATE TABLE item ({definition}, by_sql int NOT NULL DEFAULT 0,"
        " by_python int NOT NULL DEFAULT 0)".encode()
    )
    crew.conn.execute(
        f"INSERT INTO item SELECT {values} FROM generate_series(1, {ROWS}) i".encode()
    )
    crew.write_jobs(JOBS)
    crew.keep_alive(WORKERS)
    runs = [crew.enqueue("count_in_sql"), crew.enqueue("count_in_python")]

    orders = [(action, point) for action in ("kill child", "kill worker") for point in POINTS]
    chance.shuffle(orders)
    for action, point in orders:
        crew.order(action, point)

        def obeyed(action: str = action, point: str = point) -> bool:
            crew.keep_alive(WORKERS)
            return crew.is_obeyed(action, point)

        crew.wait(obeyed, f"a process obeys: {action} {point}")
        time.sleep(chance.random() * 0.5)  # anywhere: in a batch, between two, while it starts
        victim = chance.choice(crew.alive)
        # a worker that has only just started has no child yet: then itself
        if chance.random() < 0.5 or not victim.kill_a_child(chance):
            victim.kill()
        crew.keep_alive(WORKERS)
    assert any(crew.state(run).is_live for run in runs), "the runs ended before the last kill"

    for run in runs:
        crew.wait_for(run, RunState.SUCCEEDED, RunState.FAILED, RunState.PAUSED, seconds=200)
        assert crew.state(run) is RunState.SUCCEEDED, crew.told()
    each_row_once(crew, "item", ["by_sql", "by_python"], ROWS)
    for run in runs:  # I2: every key has one outcome
        counts = crew.counts(run)
        assert (counts.paged, counts.written) == (ROWS, ROWS)
        assert counts.adds_up
