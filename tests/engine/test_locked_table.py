"""A table that is locked for long: the run waits, goes on by itself, or says who it waited for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
import pytest

from backfill.job import Job, Options
from backfill.pg.blocking import who_locks
from backfill.pg.connect import Limits
from tests.engine.factory import BOUND_SECONDS, Worksite, until
from tests.engine.jobs import Increment, IncrementInPython

#: Twenty slices, so that the frontier is not at its end when the table is locked.
SMALL = Options(batch_rows=50, slice_rows=100, lock_timeout_seconds=0.03)


@dataclass(frozen=True, slots=True)
class Queue:
    """The processes of a report and of the migration that waits for it."""

    report: int
    migration: int


@contextmanager
def alter_behind_a_report(site: Worksite, *, table: str = "t") -> Iterator[Queue]:
    """A report reads the table in an open transaction, and an ALTER TABLE waits behind it.

    Both end with the block.
    """
    with (
        ThreadPoolExecutor(1) as pool,
        psycopg.connect(site.url, application_name="report") as report,
        psycopg.connect(site.url, application_name="migration", autocommit=True) as migration,
    ):
        report.execute(f"LOCK TABLE {table} IN ACCESS SHARE MODE".encode())
        alter = pool.submit(migration.execute, f"ALTER TABLE {table} ADD COLUMN extra int".encode())
        try:
            site.until_waiting(migration.info.backend_pid)
            yield Queue(report.info.backend_pid, migration.info.backend_pid)
        finally:
            report.rollback()
        alter.result(30)


class Halt:
    """A probe that lets each thread commit one batch, and go on when it is opened.

    So the run is in its middle when the table is locked, however slow the machine is with that.
    """

    def __init__(self) -> None:
        self._opened = threading.Event()

    def __call__(self, point: str) -> None:
        if point == "after COMMIT":
            assert self._opened.wait(BOUND_SECONDS), "nobody let the run go on"

    def open(self) -> None:
        self._opened.set()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other quickly."""
    monkeypatch.setattr("backfill.engine.returning.SLICE_ATTEMPTS", 2)
    monkeypatch.setattr("backfill.engine.returning.LOCKED_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(
        "backfill.engine.source.READ_LIMITS",
        Limits(lock_timeout_seconds=0.03, statement_timeout_seconds=30.0),
    )


@pytest.mark.parametrize("job", [Increment, IncrementInPython])
def test_a_run_waits_for_a_locked_table_and_goes_on_by_itself(
    site: Worksite, job: type[Job], capsys: pytest.CaptureFixture[str]
) -> None:
    """I5, I7: nobody is woken for a migration that waits for a report."""
    site.numbers(2_000)
    run = site.begun(job, options=SMALL)
    halt = Halt()
    with site.crew(job, run, threads=2, probe=halt):
        until(lambda: site.outcome(run).counts.paged, what="a batch")
        with alter_behind_a_report(site):
            halt.open()
            until(
                lambda: site.value("SELECT max(attempts) FROM backfill.slice") > 2,
                what="more failures than other errors may have",
            )
            during = site.outcome(run)
            assert during.state == "running"
            assert during.counts.paged < 2_000
    done = site.outcome(run)
    assert done.state == "succeeded"
    assert "run.paused" not in done.event_names
    assert site.rows("SELECT DISTINCT n FROM t") == [(1,)]
    assert "slice.not_placed" in (told := capsys.readouterr().out)
    assert "database.unreachable" not in told


def test_a_table_that_stays_locked_pauses_the_run_and_names_who_waits_for_whom(
    site: Worksite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I1, I7: nothing is lost; after `resume` it ends right."""
    monkeypatch.setattr("backfill.engine.returning.LOCKED_ATTEMPTS", 2)
    site.numbers(2_000)
    run = site.begun(Increment, options=SMALL)
    halt = Halt()
    with site.crew(Increment, run, threads=2, probe=halt):
        until(lambda: site.outcome(run).counts.paged, what="a batch")
        with alter_behind_a_report(site) as queue:
            halt.open()
            paused = site.until_state(run, "paused")
    assert "failed 2 times in a row, last with LockNotAvailable (55P03)" in paused.why_paused
    assert (
        f"process {queue.migration} (migration) waits for AccessExclusiveLock on t,"
        f" behind process {queue.report} (report)" in paused.why_paused
    )
    site.lift(run)
    assert site.work(Increment, run, threads=2).state == "succeeded"
    assert site.rows("SELECT DISTINCT n FROM t") == [(1,)]


def test_only_locks_that_a_batch_cannot_share_are_told(site: Worksite) -> None:
    site.numbers(10)
    site.numbers(10, name="other")
    oid = site.value("SELECT 't'::regclass::oid")
    with psycopg.connect(site.url, application_name="index") as conn:
        pid = conn.info.backend_pid
        for mode in ("ACCESS SHARE", "ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE"):
            conn.execute(f"LOCK TABLE t IN {mode} MODE".encode())
        conn.execute("LOCK TABLE other")
        assert not who_locks(site.conn, [oid])
        conn.execute("LOCK TABLE t IN SHARE MODE")
        assert who_locks(site.conn, [oid]) == f"process {pid} (index) holds ShareLock on t"
        conn.rollback()
