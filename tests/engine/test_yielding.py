"""Who waits for a lock of ours goes first: no batch begins before that."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest

from backfill.engine.turn import YIELD_SECONDS
from backfill.job import Job, Options
from backfill.pg.blocking import somebody_waits_for_us
from backfill.pg.connect import application_name, connect
from tests.engine.factory import Gate, Worksite, until
from tests.engine.jobs import Increment, IncrementInPython, LabelInPython


@contextmanager
def another_batch(site: Worksite, *, name: str) -> Iterator[psycopg.Connection]:
    """A batch of another slot: it holds row 100 until the block ends."""
    with psycopg.connect(site.url, application_name=name) as conn:
        conn.execute("SELECT FROM t WHERE id = 100 FOR NO KEY UPDATE")
        yield conn
        conn.rollback()


OURS = application_name("other-abcde", 1, 1)


def test_a_session_that_waits_for_a_batch_of_ours_is_seen(site: Worksite) -> None:
    site.numbers(200)
    with connect(site.url) as watcher:
        assert not somebody_waits_for_us(watcher)
        with ThreadPoolExecutor(1) as pool, psycopg.connect(site.url, autocommit=True) as conn:
            with another_batch(site, name=OURS):
                assert not somebody_waits_for_us(watcher)
                update = pool.submit(conn.execute, "UPDATE t SET done = true WHERE id = 100")
                site.until_waiting(conn.info.backend_pid)
                assert somebody_waits_for_us(watcher)
            update.result(30)
        assert not somebody_waits_for_us(watcher)


def test_who_waits_for_somebody_else_and_our_own_sessions_are_not_yielded_to(
    site: Worksite,
) -> None:
    site.numbers(200)
    for holder, waiter in (("psql", "psql"), (OURS, OURS), (OURS, "backfill")):
        with (
            ThreadPoolExecutor(1) as pool,
            connect(site.url) as watcher,
            psycopg.connect(site.url, autocommit=True, application_name=waiter) as conn,
        ):
            with another_batch(site, name=holder):
                update = pool.submit(conn.execute, "UPDATE t SET done = true WHERE id = 100")
                site.until_waiting(conn.info.backend_pid)
                assert not somebody_waits_for_us(watcher), (holder, waiter)
            update.result(30)


def test_no_batch_begins_while_another_session_waits_for_a_batch(
    site: Worksite, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another slot's batch stands; the run's own slot waits with its next one, bounded."""
    # here the session may come within the time for which a look counts
    monkeypatch.setattr("backfill.engine.turn.LOOK_SECONDS", 0.0)
    site.numbers(1_000)
    gate = Gate("after COMMIT")
    run = site.begun(Increment, options=Options(batch_rows=10, concurrency=1))
    with ThreadPoolExecutor(1) as pool, psycopg.connect(site.url, autocommit=True) as conn:
        with another_batch(site, name=OURS), site.crew(Increment, run, probe=gate) as crew:
            gate.wait()
            update = pool.submit(conn.execute, "UPDATE t SET done = true WHERE id = 100")
            site.until_waiting(conn.info.backend_pid)
            began = time.monotonic()
            gate.open()
            until(lambda: site.outcome(run).counts.paged > 10, what="a batch after the bound")
            assert time.monotonic() - began >= YIELD_SECONDS * 0.9
            crew.stop()
        update.result(30)
    assert "batch.yielded" in capsys.readouterr().out
    assert site.work(Increment, run).state == "succeeded"
    assert site.rows("SELECT DISTINCT n FROM t") == [(1,)]


@pytest.mark.parametrize("job", [Increment, IncrementInPython])
@pytest.mark.parametrize("change", ["ADD COLUMN extra int", "ALTER COLUMN label TYPE varchar(99)"])
def test_an_alter_table_gets_through_and_the_run_goes_on(
    site: Worksite, job: type[Job], change: str
) -> None:
    """The table changes under prepared statements; the session that changes it bears no long wait.

    PostgreSQL's own lock_timeout is the judge: ten times what a batch is meant to take.
    """
    site.numbers(20_000)
    run = site.begun(job, options=Options(slice_rows=2_000))
    with psycopg.connect(site.url, autocommit=True) as application:
        application.execute("SET lock_timeout = '500ms'")
        with site.crew(job, run, threads=2):
            until(lambda: site.outcome(run).counts.paged > 2_000, what="some batches")
            application.execute(f"ALTER TABLE t {change}")
            during = site.outcome(run)
    done = site.outcome(run)
    assert during.state == "running", "the table was to be changed in mid-run"
    assert done.state == "succeeded"
    assert "run.paused" not in done.event_names
    assert site.rows("SELECT DISTINCT n FROM t") == [(1,)]


def test_a_read_column_whose_type_changes_in_mid_run_is_no_reason_to_pause(site: Worksite) -> None:
    """0A000, "cached plan must not change result type": the statement is prepared anew."""
    site.numbers(3_000)
    gate = Gate("after COMMIT", visit=30)
    run = site.begun(LabelInPython, options=Options(batch_rows=20, concurrency=1))
    with site.crew(LabelInPython, run, probe=gate):
        gate.wait()
        site.execute("ALTER TABLE t ALTER COLUMN n TYPE bigint")
        gate.open()
    done = site.outcome(run)
    assert done.state == "succeeded", done.pauses
    assert "run.paused" not in done.event_names
    assert site.value("SELECT count(*) FROM t WHERE label IS NULL") == 0


def test_a_feature_that_is_not_supported_still_pauses(site: Worksite) -> None:
    """The same SQLSTATE means something else where no plan was cached."""
    site.numbers(50)
    site.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE EXCEPTION 'no' USING ERRCODE = '0A000'; END $$"
    )
    site.execute("CREATE TRIGGER refuse BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION refuse()")
    done = site.run(Increment)
    assert done.state == "paused"
