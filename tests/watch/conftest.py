"""A project whose job puts rows of text keys into quarantine, with a worker at hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backfill.watch.exporter import RunsCollector
from tests.acceptance import counting
from tests.acceptance.crew import QUICK, Crew


@pytest.fixture
def crew(tmp_path: Path, db_url: str, redis_url: str) -> Iterator[Crew]:
    """A project with a table of 1,000 rows, three of them bad; no worker is started."""
    crew = Crew(tmp_path, url=db_url, redis_url=redis_url, engine=QUICK)
    keys = {i: f"secret-{i:04}" for i in range(1, 1001)}
    bad = {keys[i] for i in (7, 407, 807)}
    counting.arrange(crew, set(keys.values()) - bad, bad)
    yield crew
    crew.close()


@pytest.fixture
def collector(crew: Crew) -> Iterator[RunsCollector]:
    """The collector of the crew's project, with time enough for a busy machine."""
    with closing(RunsCollector(crew.project, seconds=20.0)) as made:
        yield made
