"""I4: Redis may vanish at any moment, wholly or for a while; nothing is lost or repeated."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import redis

from backfill.checkpoint import Checkpoint
from backfill.engine import lifecycle
from backfill.job import Options
from backfill.local.redis import LocalRedis
from backfill.model import PauseCause, RunState
from tests.acceptance.conftest import MakeCrew
from tests.acceptance.crew import Crew, each_row_once

ROWS = 60_000
#: What they may do in the second between two writes of the checkpoint, and a batch of each child.
LAG_ROWS = 3_000 + 4 * 250
AWAY_SECONDS = 10.0

JOBS = """
class Count(Job):
    source = Table("item")
    transform = Sql(n="n + 1")
    target = Update()
    options = Options(batch_rows=250, slice_rows=3_000, concurrency=4, rate="3000/s")
"""


@pytest.fixture
def working(make_crew: MakeCrew, own_redis: LocalRedis) -> Crew:
    """Two workers on a Redis of the test's own."""
    crew = make_crew(redis_url=own_redis.url())
    crew.conn.execute("CREATE TABLE item (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    crew.conn.execute(b"INSERT INTO item (id) SELECT i FROM generate_series(1, %s) i", [ROWS])
    crew.write_jobs(JOBS)
    crew.keep_alive(2, children=2)
    crew.wait_for_workers(*crew.workers)
    return crew


def is_right(crew: Crew, run: str) -> bool:
    """The checkpoint says what the ledger says, but for the batches of the last moment."""
    checkpoint = crew.project.checkpoint(crew.desk.ledger)
    before = crew.counts(run)
    progress = crew.project.progress(crew.desk, run, checkpoint=checkpoint)
    after = crew.counts(run)
    close(checkpoint)
    return (
        progress.source == "checkpoint"
        and before.settled - LAG_ROWS <= progress.counts.settled <= after.settled
    )


def close(checkpoint: Checkpoint | None) -> None:
    if checkpoint is not None:
        checkpoint.close()


def is_exact(crew: Crew, run: str) -> bool:
    """The checkpoint says exactly what the ledger says; nobody may be at work."""
    checkpoint = crew.project.checkpoint(crew.desk.ledger)
    progress = crew.project.progress(crew.desk, run, checkpoint=checkpoint)
    close(checkpoint)
    return progress.source == "checkpoint" and progress.counts == crew.counts(run)


def ends_once(crew: Crew, run: str) -> None:
    """The run succeeds, and each row was counted once."""
    crew.hurry(run)
    crew.wait_for(run, RunState.SUCCEEDED, seconds=100)
    each_row_once(crew, "item", ["n"], ROWS)
    counts = crew.counts(run)
    assert (counts.paged, counts.written) == (ROWS, ROWS)


@pytest.mark.slow
def test_a_flushed_redis_costs_nothing_and_progress_is_right_again_within_seconds(
    working: Crew, own_redis: LocalRedis, record_property: Callable[[str, object], None]
) -> None:
    run = working.enqueue("count")
    working.wait_for_rows(run, ROWS // 5)
    for _ in range(3):
        with redis.Redis.from_url(own_redis.url()) as client:
            client.flushall()
        seconds = working.wait(
            lambda: is_right(working, run), "progress is right again", seconds=15
        )
        record_property("progress_right_after_seconds", round(seconds, 2))
        working.wait_for_rows(run, working.counts(run).settled + 2_000)
    paused = lifecycle.pause(
        working.desk.conn,
        working.desk.ledger,
        run,
        PauseCause.USER,
        reason="to compare",
        ends="the test",
        by="the test",
    )
    assert paused
    working.wait(lambda: not working.held(run), "nobody works")
    working.wait(lambda: is_exact(working, run), "checkpoint and ledger are equal", seconds=15)
    lifecycle.lift(working.desk.conn, working.desk.ledger, run, [PauseCause.USER], by="the test")
    ends_once(working, run)


@pytest.mark.slow
def test_work_goes_on_while_redis_is_away_and_progress_is_right_soon_after_it_is_back(
    working: Crew, own_redis: LocalRedis, record_property: Callable[[str, object], None]
) -> None:
    run = working.enqueue("count")
    working.wait_for_rows(run, ROWS // 6)
    own_redis.stop()
    began, before = time.monotonic(), working.counts(run).settled
    time.sleep(AWAY_SECONDS / 2)
    halfway = working.counts(run).settled
    time.sleep(max(0.0, began + AWAY_SECONDS - time.monotonic()))
    later = working.counts(run).settled
    assert halfway > before + 1_000, "nothing happens without Redis"
    assert later > halfway + 1_000, "the work stops after a while without Redis"
    record_property("rows_per_second_without_redis", round((later - before) / AWAY_SECONDS))
    own_redis.start()
    seconds = working.wait(lambda: is_right(working, run), "progress is right again", seconds=25)
    record_property("progress_right_after_seconds", round(seconds, 2))
    ends_once(working, run)


@pytest.mark.slow
def test_a_run_enqueued_without_redis_is_taken_up_when_redis_comes_back(
    working: Crew, own_redis: LocalRedis
) -> None:
    own_redis.stop()
    began = time.monotonic()
    run = working.enqueue("count")  # says in its answer that nothing was sent
    assert time.monotonic() - began < 5
    assert working.state(run) is RunState.QUEUED
    own_redis.start()
    ends_once(working, run)


@pytest.mark.slow
def test_a_worker_with_an_idle_child_outlives_an_outage(
    make_crew: MakeCrew, own_redis: LocalRedis
) -> None:
    """One child works, so that a message is held, and the worker listens for another meanwhile."""
    crew = make_crew(redis_url=own_redis.url())
    crew.conn.execute("CREATE TABLE item (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    crew.conn.execute("INSERT INTO item (id) SELECT i FROM generate_series(1, 20000) i")
    crew.write_jobs(JOBS)
    worker = crew.start(2, as_users_do=True)
    run = crew.enqueue("count", options=Options(concurrency=1, rate="1000/s", batch_rows=100))
    for _ in range(2):
        # more than a task's time: the worker listens (again), and not only a child works on
        crew.wait_for_rows(run, crew.counts(run).settled + 2_000)
        own_redis.stop()
        crew.wait_for_rows(run, crew.counts(run).settled + 1_000)
        assert "Unrecoverable" not in worker.log.read_text(), crew.told()
        own_redis.start()
    assert worker.is_alive
    lifecycle.cancel(crew.desk.conn, crew.desk.ledger, run, reason="it is shown", by="the test")
