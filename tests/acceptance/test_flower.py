"""Stock Flower, as it comes, shows our tasks readably."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from backfill.local.process import free_port
from backfill.model import RunState
from tests.acceptance.conftest import MakeCrew
from tests.acceptance.crew import SHIPPED

ROWS = 40_000

JOBS = """
class Count(Job):
    source = Table("users", todo="n = 0")
    transform = Sql(n="n + 1")
    target = Update()
    options = Options(batch_rows=200, slice_rows=4_000, concurrency=1, rate="5000/s")
"""
#: users.n 41 % 41,000/100,000, 21,400 rows/s
PROGRESS = re.compile(r"users\.n (\d+) % ([\d,]+)/40,000(, ([\d,]+) rows/s)?")


class Flower:
    """Its API."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/"

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self._url + path, timeout=5) as answer:
            return answer.read().decode()

    def answers(self) -> bool:
        try:
            self.get("healthcheck")
        except (urllib.error.URLError, OSError):
            return False
        return True

    def tasks(self) -> list[dict[str, Any]]:
        return list(json.loads(self.get("api/tasks?limit=1000")).values())


@contextmanager
def running_flower(redis_url: str, folder: Path) -> Iterator[Flower]:
    """Flower on this Redis; it asks nobody for a password."""
    port = free_port()
    with (folder / "flower.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "celery", "--broker", redis_url, "flower"),
                *("--address=127.0.0.1", f"--port={port}"),
                "--tasks-columns=name,uuid,state,args,kwargs,result,received,started,runtime",
            ],
            cwd=folder,
            env={**os.environ, "FLOWER_UNAUTHENTICATED_API": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        flower = Flower(port)
        deadline = time.monotonic() + 60
        while not flower.answers():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail((folder / "flower.log").read_text())
            time.sleep(0.1)
        yield flower
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.mark.slow
def test_flower_shows_which_run_works_how_far_it_is_and_what_each_task_did(
    make_crew: MakeCrew, redis_url: str, tmp_path: Path
) -> None:
    crew = make_crew(engine=SHIPPED)  # tasks are long enough to be looked at
    crew.conn.execute("CREATE TABLE users (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    crew.conn.execute(b"INSERT INTO users (id) SELECT i FROM generate_series(1, %s) i", [ROWS])
    crew.conn.execute("ANALYZE users")
    crew.write_jobs(JOBS)
    with running_flower(redis_url, tmp_path) as flower:
        crew.start(2)
        run = crew.enqueue("count")
        lines: set[str] = set()

        def watched() -> bool:
            for task in flower.tasks():
                if task["state"] == "PROGRESS":
                    lines.add(task["result"])
            return crew.state(run) is RunState.SUCCEEDED

        crew.wait(watched, "the run succeeds")
        crew.wait(
            lambda: all(task["state"] == "SUCCESS" for task in flower.tasks()), "all tasks end"
        )
        tasks = flower.tasks()
        page = flower.get("tasks")
    assert {task["name"] for task in tasks} == {"backfill.work"}
    for task in tasks:
        for shown in ("'job': 'count'", f"'run': '{run}'", "'slot': 0"):
            assert shown in task["kwargs"]
    matches = [PROGRESS.fullmatch(line) for line in lines]
    assert matches
    assert all(matches), lines
    assert any(match[4] for match in matches if match), "no line says how fast"
    shares = sorted(int(match[1]) for match in matches if match)
    assert shares[0] < shares[-1] < 100
    results = " ".join(task["result"] for task in tasks)
    assert f"{run} slot 0: " in results
    assert re.search(r"\d+ batches in \d+ slices: [\d,]+ written", results), results
    assert "(run succeeded)" in results
    assert "result" in page.lower()  # the column that --tasks-columns asks for
