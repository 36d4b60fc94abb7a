"""Stock Flower, as it comes, shows our tasks readably."""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from backfill.model import RunState
from tests.acceptance.conftest import MakeCrew
from tests.acceptance.crew import SHIPPED, Crew
from tests.flower.servers import FlowerServer, running_stock_flower

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


def tasks_of(flower: FlowerServer) -> list[dict[str, Any]]:
    return list(flower.get("/api/tasks?limit=1000").json.values())


@pytest.mark.slow
def test_flower_shows_which_run_works_how_far_it_is_and_what_each_task_did(
    make_crew: MakeCrew, redis_url: str, tmp_path: Path
) -> None:
    crew = make_crew(engine=SHIPPED)  # tasks are long enough to be looked at
    crew.conn.execute("CREATE TABLE users (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    crew.conn.execute(b"INSERT INTO users (id) SELECT i FROM generate_series(1, %s) i", [ROWS])
    crew.conn.execute("ANALYZE users")
    crew.write_jobs(JOBS)
    with running_stock_flower(tmp_path, redis_url) as flower:
        crew.start(2)
        run = crew.enqueue("count")
        lines: set[str] = set()

        def watched() -> bool:
            for task in tasks_of(flower):
                if task["state"] == "PROGRESS":
                    lines.add(task["result"])
            return crew.state(run) is RunState.SUCCEEDED

        crew.wait(watched, "the run succeeds")
        crew.wait(
            lambda: all(task["state"] == "SUCCESS" for task in tasks_of(flower)), "all tasks end"
        )
        tasks = tasks_of(flower)
        page = flower.get("/tasks").text
    assert {task["name"] for task in tasks} == {"backfill.work"}
    for task in tasks:
        shown = {"job": "count", "run": run, "slot": 0, "database": "default"}
        assert ast.literal_eval(task["kwargs"]) == shown
    matches = [PROGRESS.fullmatch(line) for line in lines]
    assert matches
    assert all(matches), lines
    assert any(match[4] for match in matches if match), "no line says how fast"
    shares = sorted(int(match[1]) for match in matches if match)
    assert shares[0] < shares[-1] < 100
    results = " ".join(task["result"] for task in tasks)
    assert all(task["result"].startswith(f"{run} slot 0: ") for task in tasks)
    assert re.search(r"\d+ batch(es)? in \d+ slices?: [\d,]+ written", results), results
    assert "(run succeeded)" in results
    assert "result" in page.lower()  # the column that --tasks-columns asks for


WRONG = """
class Ring(Job):
    source = Table("bell")
    transform = Sql(n="n + 1")
    target = Update()
    options = Options(concurrency=1)

    def after_batch(self, batch):
        raise OSError("the bell does not ring")

class Prepare(Job):
    source = Table("pot")
    transform = Sql(n="n + 1")
    target = Update()
    options = Options(concurrency=1)

    def setup(self, conn):
        raise LookupError("there is no pot")

class Wait(Job):
    source = Table("stop")
    transform = Sql(n="n + 1")
    target = Update()
    options = Options(concurrency=1, rate="200/s", batch_rows=100)
"""


BREAK = """
from backfill import *

class Break(Job):
    source = Table("glass")
    transform = Sql(n="n + 1")
    target = Update()
    options = Options(concurrency=1)
"""


def make_tables(conn: psycopg.Connection) -> None:
    for table in map(sql.Identifier, ("bell", "pot", "glass", "stop")):
        conn.execute(
            sql.SQL(
                "CREATE TABLE {} AS SELECT i::bigint AS id, 0 AS n FROM generate_series(1, 2000) i"
            ).format(table)
        )
        conn.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY (id)").format(table))


@contextmanager
def database_away(url: str, *, ours: list[int]) -> Iterator[None]:
    """Every session but ours is ended, and no new one begins."""
    name = conninfo_to_dict(url)["dbname"]
    allow = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    with psycopg.connect(make_conninfo(url, dbname="postgres"), autocommit=True) as elsewhere:
        elsewhere.execute(allow.format(sql.Identifier(str(name)), sql.SQL("false")))
        try:
            elsewhere.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = %s AND pid <> ALL (%s)",
                [name, ours],
            )
            yield
        finally:
            elsewhere.execute(allow.format(sql.Identifier(str(name)), sql.SQL("true")))


@pytest.mark.slow
def test_flower_says_in_words_what_keeps_a_task_from_working(
    make_crew: MakeCrew, db_url: str, redis_url: str, tmp_path: Path
) -> None:
    """What is to be expected is a result; a defect alone is a failure, and says where it is."""
    crew = make_crew()
    make_tables(crew.conn)
    crew.write_jobs(WRONG)
    module = crew.folder / crew.package / "glass.py"
    module.write_text(BREAK)
    with running_stock_flower(tmp_path, redis_url) as flower:
        ring, prepare, broken, wait = map(crew.enqueue, ("ring", "prepare", "break", "wait"))
        module.write_text(BREAK.replace('Table("glass")', 'Table("glass", no_such_option=1)'))
        crew.start(2)
        for run in (ring, prepare, broken):
            crew.wait_for(run, RunState.PAUSED)
        crew.send(wait, 0, slot="the first")
        crew.wait_for_rows(wait, 100)

        def results(run: str) -> list[str]:
            return [task["result"] for task in tasks_of(flower) if run in (task["result"] or "")]

        ours = [conn.info.backend_pid for conn in (crew.conn, crew.desk.conn)]
        with database_away(db_url, ours=ours):
            crew.wait(lambda: "away" in " ".join(results(wait)), "the absence is told")
        if Crew.is_pooled:  # it has ended our sessions, too, and looks for the server once a second
            time.sleep(1.5)
            crew.reconnect()
        crew.wait_for(wait, RunState.SUCCEEDED)
        crew.wait(lambda: all(map(results, (ring, prepare, broken))), "the others are told")
        told = {run: " ".join(results(run)) for run in (ring, prepare, broken, wait)}
        failures = [task for task in tasks_of(flower) if task["state"] == "FAILURE"]
    assert "(run paused); error: Ring.after_batch raised OSError: the bell does not" in told[ring]
    assert "Prepare.setup raised LookupError: there is no pot" in told[prepare]
    assert "there is no job break" in told[broken]
    assert f"{crew.package}/glass.py:" in told[broken]
    assert f"`backfill resume {broken}`" in told[broken]
    assert re.search(r"the database is away \(.+\); it goes on later", told[wait])
    assert len(failures) == 1
    assert failures[0]["exception"].startswith(
        f"UnexpectedError('{wait} slot the first: unexpected TypeError in _work_slot ("
    )
    assert "if slot >= bench.options.concurrency" in failures[0]["traceback"]
