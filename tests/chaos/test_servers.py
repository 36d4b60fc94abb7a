"""Faults of PostgreSQL under real Celery workers: all that they hold is on the server that goes.

The engine alone meets more of them, at named points of a batch: test_postgres.py.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from backfill.local.postgres import LocalPostgres
from backfill.model import RunState
from backfill.pg.install import upgrade
from backfill.watch.progress import Progress
from tests import services
from tests.acceptance.crew import QUICK, Crew, each_row_once
from tests.chaos.conftest import through
from tests.chaos.proxy import Proxy
from tests.chaos.test_postgres import fail_over, hanging_later, set_server
from tests.engine.factory import Worksite
from tests.pg.standby import standby_of

ROWS = 6_000
JOBS = """
class Count(Job):
    source = Table("item")
    transform = Sql(n="n + 1")
    target = Update()
    options = Options(batch_rows=100, slice_rows=1_000, concurrency=2, rate="500/s")
"""


@pytest.fixture
def server() -> Iterator[LocalPostgres]:
    """A server of the test's own, in which commits are waited for."""
    with services.embedded_postgres({"fsync": False}) as postgres:
        with psycopg.connect(postgres.create_database("now"), autocommit=True) as conn:
            upgrade(conn)
        yield postgres


@pytest.fixture
def crew(tmp_path: Path, server: LocalPostgres, proxy: Proxy, redis_url: str) -> Iterator[Crew]:
    """Two workers of two children that know the server by the proxy's address."""
    url = through(proxy, server.url("now"))
    with closing(Crew(tmp_path, url=url, redis_url=redis_url, engine=QUICK)) as crew:
        crew.conn.execute("CREATE TABLE item (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0)")
        crew.conn.execute("INSERT INTO item (id) SELECT generate_series(1, %s)", [ROWS])
        crew.conn.execute("ANALYZE item")
        crew.write_jobs(JOBS)
        crew.keep_alive(2, children=2)
        crew.wait_for_workers(*crew.workers)
        yield crew


def at_work(crew: Crew) -> str:
    """A run of which some rows are done, and most are left."""
    run = crew.enqueue("count")
    crew.wait_for_rows(run, 300)
    return run


def done_once(crew: Crew, run: str) -> None:
    """By the workers that were there, without anybody's help, and each row once."""
    crew.hurry(run)
    crew.wait_for(run, RunState.SUCCEEDED)
    each_row_once(crew, "item", ["n"], ROWS)
    counts = crew.counts(run)
    assert counts.adds_up
    assert (counts.paged, counts.written) == (ROWS, ROWS)
    assert "run.paused" not in [event.name for event in crew.events(run)]
    assert len(crew.alive) == 2, crew.told()


def test_an_immediate_shutdown_and_a_restart(crew: Crew, server: LocalPostgres) -> None:
    """Twice: at once, and after a second in which workers find nobody."""
    run = at_work(crew)
    for seconds in (0.0, 1.0):
        assert crew.state(run) is RunState.RUNNING
        before = crew.counts(run).settled
        server.stop("immediate", keep=True)
        time.sleep(seconds)
        server.start()
        crew.reconnect()
        assert crew.counts(run).settled >= before, "what was committed is gone"
        crew.wait_for_rows(run, before + 300)
    done_once(crew, run)


def test_a_fail_over_to_a_synchronous_standby(
    crew: Crew, server: LocalPostgres, proxy: Proxy
) -> None:
    with standby_of(server) as standby:
        with closing(Worksite(server.url("now"))) as site:
            set_server(site, "synchronous_standby_names", "replica1")
        run = at_work(crew)
        before = crew.counts(run).settled
        fail_over(server, standby, proxy)
        crew.reconnect()
        assert crew.query("SELECT inet_server_port()") == [(standby.port,)]
        assert before <= crew.counts(run).settled < ROWS
        done_once(crew, run)
        crew.close()  # before the standby goes


def test_a_synchronous_standby_that_hangs_is_told_and_waited_for(
    crew: Crew, server: LocalPostgres
) -> None:
    """Workers are not seen meanwhile, since that is a commit, too; they are not missed for it."""
    with (
        standby_of(server) as standby,
        closing(Worksite(server.url("now"))) as site,
        hanging_later(site, standby) as (_, hang, go_on),
    ):
        run = at_work(crew)
        hang()
        crew.wait(lambda: WAITS.search(status(crew)), "the list says so")
        crew.wait(lambda: not progress(crew, run).workers, "no worker is seen any more")
        assert WAITS.search(status(crew))
        told = status(crew, run)
        assert re.search(f"limited by +{WAITS.pattern}", told), told
        assert "no worker" not in status(crew) + told
        go_on()
        crew.wait(lambda: not WAITS.search(status(crew, run)), "it says so no more")
        done_once(crew, run)
        crew.close()  # before the standby goes


WAITS = re.compile(r"a commit that has waited \d+ s for a synchronous standby")


def status(crew: Crew, *words: str) -> str:
    """What `backfill status` writes."""
    done = subprocess.run(
        [sys.executable, "-m", "backfill", "--project", str(crew.folder), "status", *words],
        env=dict(crew.environ),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout + done.stderr


def progress(crew: Crew, run: str) -> Progress:
    """Of the ledger alone."""
    return crew.project.progress(crew.desk, run, checkpoint=None)


def test_lost_answers_to_commit(crew: Crew, proxy: Proxy) -> None:
    """Of whatever commits: batches, and what workers keep in the ledger beside them."""
    run = at_work(crew)
    commits = 0

    def every_fourth(piece: bytes) -> bool:
        nonlocal commits
        if b"COMMIT\x00" not in piece:
            return False
        commits += 1
        return commits % 4 == 0

    proxy.lose_reply = every_fourth
    crew.wait(lambda: proxy.lost >= 6, "six answers are lost")
    proxy.lose_reply = lambda _: False
    assert crew.state(run) is RunState.RUNNING, "it was over before"
    crew.reconnect()
    done_once(crew, run)
