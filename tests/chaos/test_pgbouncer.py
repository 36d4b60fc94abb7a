"""Everything works by way of a PgBouncer in transaction mode, as it does without."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from backfill.pg.connect import connect
from tests.acceptance.crew import QUICK, Crew
from tests.chaos.field import Field
from tests.chaos.pooler import pooler
from tests.chaos.storm import Storm

KILLS = 6


@pytest.mark.slow
def test_a_storm_over_a_pooler(db_url: str, redis_url: str, tmp_path: Path) -> None:
    """The workers know the pooler only; rows, counts and locks are looked at behind it."""
    with connect(db_url) as conn:
        # the one setting of a session that we may have to change, which poolers keep for a client
        conn.execute(f"ALTER DATABASE {conn.info.dbname} SET DateStyle = 'German'".encode())
    with pooler(db_url) as pooled:
        with connect(pooled) as conn:
            assert conn.prepare_threshold is None, "no pooler stands between"
        crew = Crew(tmp_path, url=db_url, redis_url=redis_url, engine=QUICK)
        assert crew.desk.url == db_url
        crew.add_environment(BACKFILL_DATABASE_URL=pooled)
        try:
            field = Field(crew, rows=6_000)
            storm = Storm(field, seed=7, workers=1, children=3, pause_seconds=0.1, rows_between=300)
            crew.keep_alive(storm.workers, children=storm.children)
            field.make("bigint", rate=1_000)
            storm.rage(KILLS)
            storm.calm()
            told = command(crew, "status", "--json", field.runs["copy"])
            assert json.loads(told)["state"] == "succeeded"
        finally:
            crew.close()


def command(crew: Crew, *arguments: str) -> str:
    """What a command of the project says."""
    done = subprocess.run(
        [sys.executable, "-m", "backfill", *arguments],
        cwd=crew.folder,
        env=crew.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
