"""Whatever a worker says is a line of one form, and none holds a password."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backfill.local.redis import LocalRedis
from backfill.model import RunState
from tests.acceptance.conftest import PASSWORD, REDIS_PASSWORD, with_users
from tests.acceptance.crew import QUICK, Crew, Worker

JOBS = """
class Count(Job):
    source = Table("item")
    transform = Sql(n="n + 1")
    target = Update()
    options = Options(batch_rows=100, slice_rows=1_000, concurrency=2, rate="1000/s")
"""


@pytest.fixture
def guarded_redis(tmp_path: Path) -> Iterator[LocalRedis]:
    """A Redis with a user that has a password."""
    with with_users(tmp_path) as server:
        yield server


@pytest.fixture
def crew(tmp_path: Path, login: str, guarded_redis: LocalRedis) -> Iterator[Crew]:
    folder = tmp_path / "project"
    folder.mkdir()
    url = guarded_redis.url().replace("127.0.0.1", f"worker:{REDIS_PASSWORD}@127.0.0.1")
    crew = Crew(folder, url=login, redis_url=url, engine=QUICK)
    crew.conn.execute("CREATE TABLE item (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    crew.conn.execute("INSERT INTO item (id) SELECT i FROM generate_series(1, 6000) i")
    crew.write_jobs(JOBS)
    yield crew
    crew.close()


def lines_of(worker: Worker) -> list[dict[str, Any]]:
    """Each line of what it wrote to standard output and standard error."""
    lines = []
    for text in worker.log.read_text().splitlines():
        assert text.startswith("{"), f"no JSON: {text!r}"
        lines.append(json.loads(text))
    return lines


@pytest.mark.slow
def test_all_that_a_worker_says_is_json_lines_without_a_password(
    crew: Crew, guarded_redis: LocalRedis
) -> None:
    """Through a run, a child's end, a Redis that goes away and comes back, and SIGTERM."""
    began = datetime.now(UTC)
    worker = crew.start(2, as_users_do=True)
    run = crew.enqueue("count")
    crew.wait_for_rows(run, 500)
    assert worker.kill_a_child(random.Random(0))
    crew.wait(lambda: "exited with 'signal 9" in worker.log.read_text(), "the end is told")
    crew.wait_for_rows(run, 1500)
    guarded_redis.stop()
    crew.wait(lambda: "Cannot connect to redis" in worker.log.read_text(), "the outage is told")
    time.sleep(1)
    guarded_redis.start()
    crew.wait_for(run, RunState.SUCCEEDED, seconds=100)
    worker.terminate()
    assert worker.wait(30) == 0
    lines = lines_of(worker)
    for line in lines:
        assert {"event", "level", "logger", "timestamp"} <= line.keys(), line
        assert line["level"] in {"info", "warning", "error", "critical"}
        assert began <= datetime.fromisoformat(line["timestamp"]) <= datetime.now(UTC)
        assert "exception" not in line, "a traceback is for level debug"
    events = {(line["logger"].split(".")[0], line["event"]) for line in lines}
    assert {("backfill", "worker.started"), ("backfill", "worker.stopped")} <= events
    told = [event for logger, event in events if logger == "celery"]
    for what in (r"w0@\S+ ready\.", r"Task backfill\.work\[.*\] received", r"Task .* succeeded"):
        assert any(re.match(what, event) for event in told), what
    # the broker's URL is there, and not its password
    assert any("redis://worker:**@127.0.0.1" in event for event in told)
    text = worker.log.read_text()
    assert PASSWORD not in text
    assert REDIS_PASSWORD not in text


def test_a_refused_connection_is_told_without_its_password(
    crew: Crew, guarded_redis: LocalRedis
) -> None:
    wrong = guarded_redis.url().replace("127.0.0.1", "worker:a-wrong-password-4714@127.0.0.1")
    crew.add_environment(BACKFILL_REDIS_URL=wrong)
    worker = crew.start(wait=False, as_users_do=True)
    crew.wait(lambda: "Cannot connect" in worker.log.read_text(), "it is refused")
    told = [line["event"] for line in lines_of(worker)]
    assert any("worker:**@127.0.0.1" in event for event in told)
    assert any("invalid username-password pair" in event for event in told)
    assert "4714" not in "".join(told)
