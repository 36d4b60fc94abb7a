"""Hours among real workers: at the bell the batch in hand commits, and nothing is queued."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backfill.job import Options
from backfill.model import RunState
from tests.acceptance.crew import QUICK, Crew, each_row_once

JOBS = """
class Count(Job):
    source = Table("item")
    transform = Sql(n="n + 1")
    target = Update()
"""
ROWS = 3_000


@pytest.fixture
def crew(tmp_path: Path, db_url: str, redis_url: str) -> Iterator[Crew]:
    crew = Crew(tmp_path, url=db_url, redis_url=redis_url, engine=QUICK)
    crew.conn.execute("CREATE TABLE item (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    crew.conn.execute(b"INSERT INTO item (id) SELECT i FROM generate_series(1, %s) i", [ROWS])
    crew.write_jobs(JOBS)
    yield crew
    crew.close()


def wait_for_a_round(crew: Crew) -> None:
    """Until the worker's reconciler has said once more that it lives."""
    seen = crew.query("SELECT seen_at FROM backfill.worker")
    crew.wait(lambda: crew.query("SELECT seen_at FROM backfill.worker") != seen, "a round")


@pytest.mark.slow
def test_a_run_starts_at_its_instant_stops_at_its_end_and_goes_on_when_given_more_time(
    crew: Crew,
) -> None:
    crew.start(2)
    start = datetime.now(UTC) + timedelta(seconds=2)
    until = start + timedelta(seconds=6)
    options = Options(
        rate="300/s",
        batch_rows=20,
        slice_rows=1_000,
        start_at=start.isoformat(),
        until=until.isoformat(),
    )
    run = crew.enqueue("count", options=options)
    crew.wait(lambda: crew.causes(run) == {"window"}, "it waits for its start")
    assert crew.counts(run).paged == 0
    crew.wait_for_rows(run, 1)
    assert datetime.now(UTC) >= start
    crew.wait(lambda: crew.causes(run) == {"window"}, "its time is over")
    crew.wait(lambda: crew.held(run) == 0, "every slice is given back")
    done = crew.counts(run).settled
    assert 0 < done < ROWS

    # two periods of the reconciler, and as if each message had been lost for an hour
    slots = "SELECT slot, sent_at FROM backfill.slot ORDER BY slot"
    sent = crew.query(slots)
    crew.conn.execute("UPDATE backfill.slot SET sent_at = sent_at - interval '1 hour'")
    before = crew.query(slots)
    for _ in range(2):
        wait_for_a_round(crew)
    assert sent
    assert crew.query(slots) == before, "nothing is queued"
    assert crew.counts(run).settled == done

    crew.conn.execute(
        'UPDATE backfill.run SET options = options || \'{"until": null, "rate": null}\''
    )
    crew.wait_for(run, RunState.SUCCEEDED)
    each_row_once(crew, "item", ["n"], ROWS)
