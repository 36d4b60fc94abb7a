"""A schedule and real workers: its tick starts one run, which they work to its end."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backfill.engine import schedule
from backfill.model import RunState
from tests.acceptance.crew import QUICK, Crew, each_row_once

JOBS = """
class Count(Job):
    source = Table("item")
    transform = Sql(n="n + 1")
    target = Update()
    options = Options(batch_rows=100, slice_rows=250, concurrency=2)
"""


@pytest.fixture
def crew(tmp_path: Path, db_url: str, redis_url: str) -> Iterator[Crew]:
    crew = Crew(tmp_path, url=db_url, redis_url=redis_url, engine=QUICK)
    crew.conn.execute("CREATE TABLE item (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    crew.conn.execute("INSERT INTO item (id) SELECT i FROM generate_series(1, 1000) i")
    crew.write_jobs(JOBS)
    yield crew
    crew.close()


@pytest.mark.slow
def test_a_tick_is_one_run_of_the_workers_however_many_they_are(crew: Crew) -> None:
    for _ in range(2):
        crew.start(wait=False)
    crew.wait_for_workers(*crew.workers)
    schedule.add(
        crew.desk.conn,
        crew.desk.ledger,
        crew.project.declaration("count"),
        name="soon",
        params={},
        options={},
        when=datetime.now(UTC) + timedelta(seconds=2),
        if_running="skip",
        if_missed="skip",
        by="the test",
    )
    crew.wait(lambda: crew.query("SELECT FROM backfill.run"), "the tick starts a run")
    ((run,),) = crew.query("SELECT id FROM backfill.run")
    crew.wait_for(str(run), RunState.SUCCEEDED)
    each_row_once(crew, "item", ["n"], 1000)
    crew.wait(lambda: crew.query("SELECT FROM backfill.schedule WHERE next_at IS NULL"), "its end")
    assert crew.query("SELECT last_outcome, last_run FROM backfill.schedule") == [("started", run)]
    assert crew.query("SELECT count(*)::int FROM backfill.run") == [(1,)]
