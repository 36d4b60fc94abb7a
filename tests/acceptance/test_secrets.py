"""No secret is in a log, a task's arguments, Redis, an event or the ledger."""

from __future__ import annotations

import base64
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis
from psycopg import sql

from backfill.model import RunState
from tests.acceptance.conftest import PASSWORD
from tests.acceptance.crew import QUICK, Crew

SECRET = "a-key-of-the-geocoder-4711"
THE_END = "no-key-but-the-end-of-listening"

JOBS = """
class Geocode(Job):
    source = Table("place", where="city <> %(key)s")
    target = Update("code")
    options = Options(batch_rows=50, slice_rows=500, quarantine_rows=1000, quarantine_share=1.0)
    key = Param(str, secret=True, env="GEOCODER_KEY")
    suffix = Param(str, default="!")

    def transform(self, row):
        if row.id % 500 == 0:
            raise ValueError("not to be found")
        return {"code": f"{row.city}{len(self.key)}{self.suffix}"}

class Stumble(Job):
    source = Table("place", columns=["city"], where="city <> %(key)s")
    target = Update("nothing_there")
    key = Param(str, secret=True, env="GEOCODER_KEY")
    transform = Sql(nothing_there="%(key)s || city")
"""


@contextmanager
def everything_told(redis_url: str) -> Iterator[list[str]]:
    """Every command that Redis is sent meanwhile: values, messages and published events."""
    told: list[str] = []
    client = redis.Redis.from_url(redis_url)
    ready = threading.Event()

    def listen() -> None:
        with client.monitor() as monitor:  # type: ignore[no-untyped-call]
            ready.set()
            while not told or THE_END not in told[-1]:
                told.append(str(monitor.next_command()["command"]))

    thread = threading.Thread(target=listen)
    thread.start()
    ready.wait(10)
    try:
        yield told
    finally:
        client.get(THE_END)
        thread.join()
        client.close()


def readable(text: str) -> str:
    """The text, and what stands in it as base64: so messages have their bodies."""
    hidden = re.findall(r"[A-Za-z0-9+/]{24,}={0,2}", text)
    bodies = []
    for found in hidden:
        try:
            bodies.append(base64.b64decode(found, validate=True).decode())
        except ValueError:
            continue
    return "\n".join([text, *bodies])


def all_of_redis(redis_url: str) -> str:
    """Every key with its value."""
    client = redis.Redis.from_url(redis_url)
    dumped = [
        repr((key, client.type(key), client.dump(key))) for key in client.scan_iter("*", count=1000)
    ]
    texts = []
    for key in client.scan_iter("*"):
        kind = client.type(key)
        if kind == b"string":
            texts.append(repr(client.get(key)))
        elif kind == b"hash":
            texts.append(repr(client.hgetall(key)))
        elif kind == b"set":
            texts.append(repr(client.smembers(key)))
        elif kind == b"zset":
            texts.append(repr(client.zrange(key, 0, -1)))
        elif kind == b"list":
            texts.append(repr(client.lrange(key, 0, -1)))
    client.close()
    return "\n".join([*dumped, *texts])


def all_of_the_ledger(conn: psycopg.Connection) -> str:
    """Every row of every table of the ledger."""
    tables = conn.execute(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace ="
        " 'backfill'::regnamespace"
    ).fetchall()
    return "\n".join(
        str(row)
        for (table,) in tables
        for row in conn.execute(
            sql.SQL("SELECT t::text FROM {} t").format(sql.Identifier("backfill", table))
        )
    )


def test_secrets_are_nowhere(
    tmp_path: Path,
    login: str,
    redis_url: str,
    conn: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through written rows, quarantine, a refused statement and a lost database."""
    monkeypatch.setenv("GEOCODER_KEY", SECRET)
    conn.execute("CREATE TABLE place (id int PRIMARY KEY, city text NOT NULL, code text)")
    conn.execute("INSERT INTO place SELECT i, 'city ' || i FROM generate_series(1, 3000) i")
    conn.execute("ALTER TABLE place ADD nothing_there text")
    crew = Crew(tmp_path, url=login, redis_url=redis_url, engine=QUICK)
    try:
        crew.write_jobs(JOBS)
        with everything_told(redis_url) as told:
            run = crew.enqueue("geocode", suffix="?")
            stumbling = crew.enqueue("stumble")
            conn.execute("ALTER TABLE place DROP nothing_there")
            crew.start(2)
            crew.wait_for(stumbling, RunState.PAUSED)
            crew.wait_for(run, RunState.PAUSED)
            assert crew.causes(run) == {"quarantine"}
            assert conn.execute("SELECT code FROM place WHERE id = 1").fetchone() == (
                f"city 1{len(SECRET)}?",
            )
            # the database ends every session of the workers
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND application_name LIKE 'backfill%'"
            )
            time.sleep(1)  # some rounds of the reconciler
        seen = {
            "commands of Redis": readable("\n".join(told)),
            "Redis": readable(all_of_redis(redis_url)),
            "the ledger": all_of_the_ledger(conn),
            **{worker.name: worker.log.read_text() for worker in crew.workers},
        }
    finally:
        crew.close()
    assert "backfill.work" in seen["commands of Redis"]
    assert "task-succeeded" in seen["commands of Redis"]
    assert "geocode" in seen["the ledger"]
    assert "batch.committed" in seen["w0"]
    assert "database.unreachable" in seen["w0"] or "reconcile.failed" in seen["w0"]
    for place, text in seen.items():
        assert SECRET not in text, place
        assert PASSWORD not in text, place
