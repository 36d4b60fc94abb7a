"""A worker whose network is cut and healed, the packets dropped without a word (I1, I3, I4)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from backfill.events import Event
from backfill.local.redis import LocalRedis
from backfill.model import RunState
from backfill.pg.install import upgrade
from tests.acceptance.crew import QUICK, Crew, Worker, each_row_once
from tests.acceptance.test_stopped_holder import commits_only_what_it_took
from tests.chaos.network import POSTGRES, REDIS, WORKER, Network, network
from tests.services import FAST, embedded_postgres

ROWS = 40_000

JOBS = """
class Count(Job):
    source = Table("item", columns=["n"])
    target = Update("n")
    options = Options(batch_rows=200, slice_rows=40_000, concurrency=1, rate="2000/s")

    def transform(self, row):
        return {"n": row.n + 1}
"""


@pytest.fixture
def cable() -> Iterator[Network]:
    with network() as made:
        yield made


@pytest.fixture
def crew(cable: Network, tmp_path: Path) -> Iterator[Crew]:
    """On servers that listen at the end of the cable; a holder that goes on wants to."""
    settings = {**FAST, "listen_addresses": f"127.0.0.1,{POSTGRES}"}
    with (
        embedded_postgres(settings) as postgres,
        LocalRedis(settings={"bind": f"127.0.0.1 {REDIS}", "protected-mode": "no"}) as redis,
    ):
        hba = postgres.data_directory / "pg_hba.conf"
        hba.write_text(f"host all all {WORKER}/29 trust\n{hba.read_text()}")
        with psycopg.connect(postgres.url(), autocommit=True) as conn:
            conn.execute("SELECT pg_reload_conf()")
            upgrade(conn)
        crew = Crew(
            tmp_path,
            url=postgres.url().replace("127.0.0.1", POSTGRES),
            redis_url=redis.url().replace("127.0.0.1", REDIS),
            engine={**QUICK, "task_seconds": 60},
        )
        yield crew
        crew.close()


def at_work(crew: Crew, worker: Worker) -> bool:
    """One of its children holds the slice."""
    held = crew.query("SELECT holder FROM backfill.slice WHERE holder IS NOT NULL")
    return any(f":{pid}." in str(holder) for (holder,) in held for pid in worker.children)


@pytest.mark.slow
def test_a_worker_is_cut_off_and_comes_back(crew: Crew, cable: Network) -> None:
    crew.conn.execute("CREATE TABLE item (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    crew.conn.execute(b"INSERT INTO item (id) SELECT i FROM generate_series(1, %s) i", [ROWS])
    crew.write_jobs(JOBS)
    crew.add_environment(CREW_NETWORK=cable.name)
    far = crew.start()
    run = crew.enqueue("count")
    crew.wait_for_rows(run, 1_000)

    # Redis alone: the batches go on (I4)
    cable.cut(REDIS)
    crew.wait_for_rows(run, crew.counts(run).settled + 4_000)
    cable.heal(REDIS)

    # everything, and nobody else is there: it goes on by itself
    cable.cut(POSTGRES, REDIS)
    before = cut_off_at(crew, run)
    cable.heal(POSTGRES, REDIS)
    crew.wait_for_rows(run, before + 2_000)

    # for longer than its lease, and another takes over
    crew.add_environment(CREW_NETWORK="")
    near = crew.start()
    crew.wait(lambda: at_work(crew, far), "the far one works")
    ((epoch,),) = crew.query("SELECT epoch FROM backfill.slice")
    cable.cut(POSTGRES, REDIS)
    crew.wait(
        lambda: (
            at_work(crew, near) and crew.query("SELECT FROM backfill.slice WHERE epoch > %s", epoch)
        ),
        "the near one takes over",
    )
    crew.wait_for_rows(run, crew.counts(run).settled + 1_000)
    assert not at_work(crew, far)
    cable.heal(POSTGRES, REDIS)
    crew.wait(
        lambda: far.logged(Event.DATABASE_UNREACHABLE, Event.BATCH_FAILED, Event.SLICE_RETURNED),
        "the far one finds out",
    )

    crew.hurry(run)
    crew.wait_for(run, RunState.SUCCEEDED)
    each_row_once(crew, "item", ["n"], ROWS)
    assert crew.counts(run).written == ROWS
    assert commits_only_what_it_took(far) > 0
    assert commits_only_what_it_took(near) > 0
    assert "run.paused" not in [event.name for event in crew.events(run)]
    assert Event.SLICE_FREED in [event.name for event in crew.events(run)], "I7"


def cut_off_at(crew: Crew, run: str) -> int:
    """Wait until no batch arrives any more; returns how many rows are settled."""
    settled = -1

    def stands_still() -> bool:
        nonlocal settled
        before, settled = settled, crew.counts(run).settled
        return before == settled

    while not stands_still():
        time.sleep(1.0)
    return settled
