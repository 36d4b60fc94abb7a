"""A Redis that is reached by its socket, with a login and another database than the first."""

from __future__ import annotations

from pathlib import Path

import redis

from backfill.model import RunState
from tests.acceptance.conftest import REDIS_PASSWORD, MakeCrew, with_users

JOBS = """
class Count(Job):
    source = Table("item")
    transform = Sql(n="n + 1")
    target = Update()
"""


def test_a_worker_gets_its_messages_by_a_socket(make_crew: MakeCrew, tmp_path: Path) -> None:
    socket = tmp_path / "a+b"
    with with_users(tmp_path, unixsocket=str(socket)) as server:
        place = str(socket).replace("+", "%2B")
        crew = make_crew(redis_url=f"unix://worker:{REDIS_PASSWORD}@{place}?db=3")
        crew.conn.execute(
            "CREATE TABLE item AS SELECT i AS id, 0 AS n FROM generate_series(1, 9) i"
        )
        crew.conn.execute("ALTER TABLE item ADD PRIMARY KEY (id)")
        crew.write_jobs(JOBS)
        run = crew.enqueue("count")
        assert queued(server.url(3)) > 0, "the message waits in the database that the URL names"
        crew.start(as_users_do=True)
        crew.wait_for(run, RunState.SUCCEEDED)
        log = crew.workers[0].log.read_text()
        assert "checkpoint.unavailable" not in log
        assert REDIS_PASSWORD not in log


def queued(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return int(client.llen("backfill"))
