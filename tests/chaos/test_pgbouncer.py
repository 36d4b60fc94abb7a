"""Everything works by way of a PgBouncer in transaction mode, as it does without.

All tests of tests/acceptance go that way with `make pooler`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from backfill.pg.connect import connect
from tests.acceptance.crew import QUICK, Crew
from tests.chaos.field import Field
from tests.chaos.pooler import pooler
from tests.chaos.storm import Storm
from tests.cli.conftest import Shop, celery_shop, shop
from tests.services import PostgresServer

__all__ = ["celery_shop", "shop"]

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


#: What is typed in the life of some runs, in order, and the documented exit codes.
TYPED = (
    ("db upgrade", 0),
    ("db grants worker --job judge_age", 0),
    ("list", 0),
    ("check judge_age", 0),
    ("dry-run judge_age", 1),
    ("run judge_age", 6),
    ("quarantine list judge_age --json", 0),
    ("quarantine accept judge_age", 0),
    ("status judge_age", 0),
    ("enqueue count_visits", 0),
    ("pause count_visits", 0),
    ("tune count_visits --rate 100/s", 0),
    ("resume count_visits", 0),
    ("stop-all --reason trying --yes", 0),
    ("start-all", 0),
    ("events count_visits --json", 0),
    ("cancel count_visits", 0),
    ("watch judge_age", 0),
    ("schedule list", 0),
    ("status --json", 0),
    ("doctor", 0),
)


def test_what_a_user_types_goes_through_a_pooler(
    celery_shop: Shop, postgres_server: PostgresServer
) -> None:
    """Into a database that has no ledger yet."""
    shop = celery_shop
    with pooler(shop.url) as pooled, postgres_server.database() as name:
        shop.environ["BACKFILL_DATABASE_URL"] = str(
            urlsplit(pooled)._replace(path=f"/{name}").geturl()
        )
        shop.conn = psycopg.connect(postgres_server.url(name), autocommit=True)
        shop.users(200, bad=[7, 70])
        for typed, code in TYPED:
            done = shop(*typed.split())
            assert done.code == code, f"{typed}: {done.told}"
            assert "Traceback" not in done.told
        assert shop.number("SELECT count(*) FROM users WHERE adult") == 198
        shop.conn.close()
