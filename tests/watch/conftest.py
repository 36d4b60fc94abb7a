"""A project whose job puts rows of text keys into quarantine, with a worker at hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backfill.watch.exporter import RunsCollector
from tests.acceptance.crew import QUICK, Crew

JOBS = '''
class Count(Job):
    """Count each item once."""
    source = Table("item", columns=["n"])
    target = Update("n")
    options = Options(batch_rows=20, slice_rows=100, concurrency=2, quarantine_share=1.0)

    def transform(self, row):
        if row.n < 0:
            raise Quarantine(f"{row.id} is negative")
        return {"n": row.n + 1}
'''


@pytest.fixture
def crew(tmp_path: Path, db_url: str, redis_url: str) -> Iterator[Crew]:
    """A project with a table of 1,000 rows, three of them bad; no worker is started."""
    crew = Crew(tmp_path, url=db_url, redis_url=redis_url, engine=QUICK)
    crew.conn.execute('CREATE TABLE item (id text COLLATE "C" PRIMARY KEY, n int NOT NULL)')
    crew.conn.execute(
        "INSERT INTO item SELECT 'secret-' || to_char(i, 'FM0000'), CASE WHEN i % 400 = 7 THEN -1"
        " ELSE 0 END FROM generate_series(1, 1000) i"
    )
    crew.write_jobs(JOBS)
    yield crew
    crew.close()


@pytest.fixture
def collector(crew: Crew) -> Iterator[RunsCollector]:
    """The collector of the crew's project, with time enough for a busy machine."""
    with closing(RunsCollector(crew.project, seconds=20.0)) as made:
        yield made
