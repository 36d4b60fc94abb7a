"""A project with a run that nobody works on, for what surrounds the work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.crew import QUICK, Crew
from tests.watch.receiver import Receiver
from tests.worker.outbox import OPS, settings

JOBS = """
class Count(Job):
    source = Table("item")
    transform = Sql(n="n + 1")
    target = Update()
    options = Options(batch_rows=100, slice_rows=250, concurrency=2)
"""


@pytest.fixture
def crew(tmp_path: Path, db_url: str, redis_url: str) -> Iterator[Crew]:
    """A project with a table of 1,000 rows and a job; no worker is started."""
    crew = Crew(tmp_path, url=db_url, redis_url=redis_url, engine=QUICK)
    crew.conn.execute("CREATE TABLE item (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    crew.conn.execute("INSERT INTO item (id) SELECT i FROM generate_series(1, 1000) i")
    crew.write_jobs(JOBS)
    yield crew
    crew.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A web server that is told of runs."""
    with Receiver().serving() as receiver:
        yield receiver


@pytest.fixture
def ops(crew: Crew, receiver: Receiver) -> Crew:
    """A project with a channel to the receiver."""
    settings(crew, OPS)
    crew.add_environment(HOOK=receiver.url)
    return crew
