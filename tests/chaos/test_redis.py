"""Faults of Redis, one after the other over a run at work: it goes on under each of them (I4).

Redis going away, coming back empty, and losing messages: tests/acceptance/test_redis_away.py and
test_messages.py.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from backfill.local.redis import LocalRedis
from backfill.model import RunState
from backfill.watch.repeats import EVERY_SECONDS
from tests.acceptance.conftest import MakeCrew
from tests.acceptance.crew import Crew, each_row_once
from tests.chaos.proxy import Proxy

ROWS = 30_000
SLOTS = 2
#: How the keys of another application begin, with which ours share the server.
OTHERS = "other:"
#: What must be done while the fault lasts, and in which time: also after a task's time (1 s). When
#: each batch waited for a slow Redis, it took half a minute.
STEP, STEP_SECONDS = 1_200, 20.0

JOBS = """
class Count(Job):
    source = Table("item")
    transform = Sql(n="n + 1")
    target = Update()
    options = Options(batch_rows=100, slice_rows=5_000, concurrency=2, rate="1500/s")
"""


@contextmanager
def slow(client: redis.Redis, proxy: Proxy) -> Iterator[None]:
    """Every answer takes 0.3 s."""
    proxy.delay_seconds = 0.3
    yield
    proxy.delay_seconds = 0.0


@contextmanager
def read_only(client: redis.Redis, proxy: Proxy) -> Iterator[None]:
    """It has become a replica of a primary that is away."""
    client.replicaof("127.0.0.1", 1)
    yield
    client.replicaof("NO", "ONE")


@contextmanager
def out_of_memory(client: redis.Redis, proxy: Proxy) -> Iterator[None]:
    """It takes no write any more."""
    client.config_set("maxmemory", 1)
    yield
    client.config_set("maxmemory", 0)


@contextmanager
def another_password(client: redis.Redis, proxy: Proxy) -> Iterator[None]:
    """Ours is refused from now on; who is connected is cut off."""
    client.config_set("requirepass", "another")
    proxy.cut()
    proxy.heal()
    yield
    client.config_set("requirepass", "")


@contextmanager
def evicting(client: redis.Redis, proxy: Proxy) -> Iterator[None]:
    """Somebody else fills it, and its policy takes keys of everybody for that."""
    client.config_set("notify-keyspace-events", "Ee")
    client.config_set("maxmemory-policy", "allkeys-random")
    client.config_set("maxmemory", client.info("memory")["used_memory"] + 300_000)
    done = threading.Event()
    others = threading.Thread(target=fill, args=(client, done))
    with client.pubsub() as evictions:  # type: ignore[no-untyped-call]  # so in redis-py
        evictions.psubscribe("__keyevent@*__:evicted")
        others.start()
        deadline = time.monotonic() + STEP_SECONDS
        while not is_of_ours(evictions.get_message(timeout=1.0)):
            assert time.monotonic() < deadline, "nothing of ours is evicted"
        yield
    done.set()
    others.join()
    client.config_set("maxmemory", 0)
    client.config_set("maxmemory-policy", "noeviction")
    client.delete(*client.scan_iter(f"{OTHERS}*"))


def is_of_ours(evicted: dict[str, Any] | None) -> bool:
    """True of the message that a key was evicted which is not another application's."""
    if evicted is None or evicted["type"] != "pmessage":
        return False
    key: bytes = evicted["data"]
    return not key.startswith(OTHERS.encode())


def fill(client: redis.Redis, done: threading.Event) -> None:
    """Keys of 10 kB, a hundred a second: it is full after a third of a second."""
    number = 0
    while not done.wait(0.01):
        number += 1
        client.set(f"{OTHERS}{number}", b"x" * 10_000)


FAULTS = (slow, read_only, out_of_memory, another_password, evicting)


@pytest.mark.slow
def test_a_run_goes_on_under_each_fault_of_redis(
    make_crew: MakeCrew, own_redis: LocalRedis
) -> None:
    with (
        Proxy(own_redis.port) as proxy,
        redis.Redis.from_url(own_redis.url()) as client,
    ):
        host, port = proxy.address
        crew = make_crew(redis_url=f"redis://{host}:{port}/0")
        crew.conn.execute("CREATE TABLE item (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0)")
        crew.conn.execute("INSERT INTO item (id) SELECT generate_series(1, %s)", [ROWS])
        crew.write_jobs(JOBS)
        crew.keep_alive(1, children=SLOTS)
        run = crew.enqueue("count")
        crew.wait_for_rows(run, 500)
        for fault in FAULTS:
            # a slot whose message waits in Redis when the fault begins would wait with it
            crew.wait(lambda: crew.held(run) == SLOTS, f"all slots work before {fault.__name__}")
            with fault(client, proxy):
                goal = crew.counts(run).settled + STEP
                crew.wait(
                    lambda goal=goal: crew.counts(run).settled >= goal,  # type: ignore[misc]
                    f"{STEP} rows are done with Redis {fault.__name__}",
                    seconds=STEP_SECONDS,
                )
            crew.wait(lambda: is_right(crew, run), f"progress is right after {fault.__name__}")
        assert crew.state(run) is RunState.RUNNING, "the run ended before the last fault"
        assert len(crew.alive) == 1, crew.told()
        crew.hurry(run)
        crew.wait_for(run, RunState.SUCCEEDED)
        each_row_once(crew, "item", ["n"], ROWS)
        assert "run.paused" not in [event.name for event in crew.events(run)]


def test_a_worker_outlives_a_message_that_it_takes_while_redis_is_full(
    make_crew: MakeCrew, own_redis: LocalRedis
) -> None:
    """What was taken from the queue could not be noted; the reconciler sends another."""
    with redis.Redis.from_url(own_redis.url()) as client:
        crew = make_crew(redis_url=own_redis.url())
        crew.conn.execute("CREATE TABLE item (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0)")
        crew.conn.execute("INSERT INTO item (id) SELECT generate_series(1, 500)")
        crew.write_jobs(JOBS)
        worker = crew.start()
        worker.stop_main()
        run = crew.enqueue("count")
        client.config_set("maxmemory", 1)
        worker.go_on()
        crew.wait(lambda: "OutOfMemoryError" in worker.log.read_text(), "it is told")
        client.config_set("maxmemory", 0)
        crew.wait_for(run, RunState.SUCCEEDED)
        assert crew.alive == [worker], crew.told()
        each_row_once(crew, "item", ["n"], 500)


@pytest.mark.slow
def test_a_worker_does_not_bury_its_log_while_redis_takes_no_writes(
    make_crew: MakeCrew, own_redis: LocalRedis
) -> None:
    """Celery's consumer connects again five times a second, and has no setting for it."""
    with redis.Redis.from_url(own_redis.url()) as client:
        crew = make_crew(redis_url=own_redis.url())
        worker = crew.start()
        client.replicaof("127.0.0.1", 1)

        def refused() -> list[str]:
            lines = worker.log.read_text().splitlines()
            return [line for line in lines if "Cannot connect to" in line]

        crew.wait(lambda: "left out" in "".join(refused()), "it says how many are left out")
        client.replicaof("NO", "ONE")
        first, second = refused()[:2]
        assert "left out" not in first
        left_out = re.search(r"\((\d+) more like it are left out\)", second)
        assert left_out is not None
        assert int(left_out[1]) >= 2 * EVERY_SECONDS


def is_right(crew: Crew, run: str) -> bool:
    """The checkpoint says what the ledger says, but for a moment's batches."""
    checkpoint = crew.project.checkpoint(crew.desk.ledger)
    assert checkpoint is not None
    before = crew.counts(run).settled
    progress = crew.project.progress(crew.desk, run, checkpoint=checkpoint)
    checkpoint.close()
    return progress.source == "checkpoint" and progress.counts.settled >= before - 1_000
