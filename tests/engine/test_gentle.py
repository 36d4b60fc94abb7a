"""I5: what a run costs the application that uses the same rows: at most the length of one batch.

The application's sessions use PostgreSQL's own time-outs as the judge: a lock that is waited for
too long is an error there, however slow the machine is that the tests run on.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import psycopg
import pytest

from backfill.engine.batch import DEADLOCK_TIMEOUT_SECONDS, TRANSFORM_SHARE
from backfill.job import Insert, Job, Options, Row, Sql, Table, Update
from tests.engine.factory import BOUND_SECONDS, Gate, Worksite
from tests.engine.jobs import Increment, IncrementInPython

#: What a batch's age and its waits are bounded by; on a machine at leisure they take a twentieth.
LONGEST_WAIT_MS = DEADLOCK_TIMEOUT_SECONDS * 1000


@contextmanager
def _application(url: str, *, lock_timeout_ms: float) -> Iterator[psycopg.Connection]:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(f"SET lock_timeout = {lock_timeout_ms:.0f}")
        yield conn


@pytest.mark.parametrize("job", [Increment, IncrementInPython])
def test_an_update_of_a_row_never_waits_longer_than_about_one_batch(
    site: Worksite, job: type[Job]
) -> None:
    rows, updates = 60_000, 0
    site.numbers(rows)
    run = site.begun(job)
    choose = random.Random(20130101)
    with (
        _application(site.url, lock_timeout_ms=LONGEST_WAIT_MS) as application,
        site.crew(job, run, threads=2),
    ):
        while site.outcome(run).state == "running":
            for _ in range(20):
                application.execute(
                    "UPDATE t SET done = true WHERE id = %s", [choose.randint(1, rows)]
                )
                updates += 1
    done = site.outcome(run)
    assert done.state == "succeeded"
    assert updates >= 100
    assert site.rows("SELECT DISTINCT n FROM t") == [(1,)]


class Archive(Job):
    source = Table("t")
    target = Insert("archive", on_conflict="skip", columns=["id", "n"])


@pytest.mark.parametrize("job", [Increment, IncrementInPython, Archive])
def test_children_of_rows_in_hand_are_inserted_without_waiting(
    site: Worksite, job: type[Job]
) -> None:
    """The weakest lock that serves: a plain FOR UPDATE would make the foreign key's check wait."""
    site.numbers(10)
    site.execute("CREATE TABLE archive (id bigint PRIMARY KEY, n int)")
    site.execute("CREATE TABLE child (id bigint REFERENCES t)")
    gate = Gate("before COMMIT")
    run = site.begun(job)
    with (
        _application(site.url, lock_timeout_ms=1) as application,
        site.crew(job, run, probe=gate),
    ):
        gate.wait()
        application.execute("INSERT INTO child SELECT generate_series(1, 10)")
        gate.open()
    assert site.outcome(run).state == "succeeded"


class Recode(Job):
    source = Table("t")
    transform = Sql(label="'code ' || id")
    target = Update()


def test_a_write_that_changes_a_unique_column_takes_the_lock_that_it_needs_from_the_start(
    site: Worksite,
) -> None:
    """The write would need FOR UPDATE anyhow: taking it late, row by row, could deadlock."""
    site.numbers(10)
    site.execute("CREATE UNIQUE INDEX ON t (label)")
    site.execute("CREATE TABLE child (id bigint REFERENCES t)")
    gate = Gate("before COMMIT")
    run = site.begun(Recode)
    with (
        _application(site.url, lock_timeout_ms=1) as application,
        site.crew(Recode, run, probe=gate),
    ):
        gate.wait()
        with pytest.raises(psycopg.errors.LockNotAvailable):
            application.execute("INSERT INTO child VALUES (5)")
        gate.open()
    assert site.outcome(run).state == "succeeded"


class Adopt(Job):
    """Fills a foreign key, so that its write waits for whoever holds the parent."""

    source = Table("t", columns=["id"])
    target = Update("n")
    started: ClassVar[threading.Event] = threading.Event()
    go_on: ClassVar[threading.Event] = threading.Event()

    def transform(self, row: Row) -> dict[str, object]:
        self.started.set()
        assert self.go_on.wait(BOUND_SECONDS)
        return {"n": 1}


@pytest.fixture
def parents(site: Worksite) -> Worksite:
    """Table t with ten rows, whose n refers to a parent; the transform waits to be let go."""
    Adopt.started.clear()
    Adopt.go_on.clear()
    site.numbers(10)
    site.execute("CREATE TABLE parent (id int PRIMARY KEY, name text)")
    site.execute("INSERT INTO parent VALUES (0, 'none'), (1, 'first')")
    site.execute("ALTER TABLE t ADD FOREIGN KEY (n) REFERENCES parent")
    return site


def test_in_a_deadlock_it_is_the_run_that_gives_up(parents: Worksite) -> None:
    """We hold the row and want the parent; the application holds the parent and wants the row."""
    site = parents
    run = site.begun(Adopt)
    with site.session() as application, site.crew(Adopt, run):
        assert Adopt.started.wait(BOUND_SECONDS)
        application.execute("SELECT FROM parent WHERE id = 1 FOR UPDATE")
        waits = threading.Thread(
            target=application.execute, args=["UPDATE t SET done = true WHERE id = 5"]
        )
        waits.start()
        site.until_waiting(application.info.backend_pid)
        Adopt.go_on.set()
        waits.join(BOUND_SECONDS)  # without a deadlock error: the run's lock time-out came first
        assert not waits.is_alive()
        application.commit()
    done = site.outcome(run)
    assert done.state == "succeeded"
    assert site.rows("SELECT n, count(*), bool_or(done) FROM t GROUP BY n") == [(1, 10, True)]
    assert "run.paused" not in done.event_names


def test_a_slow_transform_does_not_use_up_the_time_in_which_a_deadlock_can_be_left(
    site: Worksite,
) -> None:
    """A page is given a bounded time: what is done by then is written, the rest comes later."""

    class Slow(Job):
        source = Table("t", columns=["n"])
        target = Update("n")

        def transform(self, row: Row) -> dict[str, object]:
            threading.Event().wait(0.1)  # an API that takes its time
            return {"n": row.n + 1}

    site.numbers(30)
    run = site.enqueue(Slow, options=Options(batch_rows=30))
    batches: list[int] = []

    def count(point: str) -> None:
        if point == "before COMMIT":
            batches.append(1)

    done = site.work(Slow, run, probe=count)
    room = (DEADLOCK_TIMEOUT_SECONDS - Options().lock_timeout_seconds) * TRANSFORM_SHARE
    assert len(batches) >= 30 * 0.1 / (room + 0.1)
    assert done.state == "succeeded"
    assert (done.counts.written, done.counts.deferred) == (30, 0)
    assert site.rows("SELECT DISTINCT n FROM t") == [(1,)]


class OneSlowRow(Job):
    """Copies; one row takes longer than the time in which a deadlock can be left."""

    source = Table("t", columns=["n"])
    target = Insert("copy", on_conflict="skip", columns=["id"])
    options = Options(batch_rows=5)
    started: ClassVar[threading.Event] = threading.Event()
    is_waited_for: ClassVar[threading.Event] = threading.Event()
    calls: ClassVar[list[int]] = []

    def transform(self, row: Row) -> dict[str, object]:
        _take_long(self, [row])
        return {"id": row.id}


class SlowBatches(Job):
    """The same, all rows at once: nobody asks for the time in between."""

    source = Table("t", columns=["n"])
    target = Insert("copy", on_conflict="skip", columns=["id"])
    options = Options(batch_rows=5)
    started: ClassVar[threading.Event] = threading.Event()
    is_waited_for: ClassVar[threading.Event] = threading.Event()
    calls: ClassVar[list[int]] = []

    def transform_batch(self, rows: Sequence[Row]) -> list[dict[str, object]]:
        _take_long(self, rows)
        return [{"id": row.id} for row in rows]


def _take_long(job: OneSlowRow | SlowBatches, rows: Sequence[Row]) -> None:
    job.calls.extend(row.id for row in rows)
    if job.started.is_set():
        return
    job.started.set()
    assert job.is_waited_for.wait(BOUND_SECONDS)
    threading.Event().wait(0.85)  # the lock's time-out does not end before the deadlock's any more


@pytest.mark.parametrize("job", [OneSlowRow, SlowBatches])
def test_a_batch_that_has_become_old_waits_so_shortly_that_no_deadlock_ends_the_application(
    site: Worksite, job: type[OneSlowRow | SlowBatches]
) -> None:
    """We hold its row and want its key, of which it has inserted a row that is not committed."""
    for event in (job.started, job.is_waited_for):
        event.clear()
    job.calls.clear()
    site.numbers(5)
    site.execute("CREATE TABLE copy (id bigint PRIMARY KEY)")
    run = site.begun(job)
    with site.session() as application, site.crew(job, run):
        application.execute("INSERT INTO copy VALUES (1)")
        assert job.started.wait(BOUND_SECONDS)
        threading.Event().wait(0.2)  # its deadlock check comes so much later than the bound
        errors: list[psycopg.Error] = []

        def update() -> None:
            try:
                application.execute("UPDATE t SET done = true WHERE id = 5")
            except psycopg.Error as error:
                errors.append(error)

        waits = threading.Thread(target=update)
        waits.start()
        site.until_waiting(application.info.backend_pid)
        job.is_waited_for.set()
        waits.join(BOUND_SECONDS)
        application.commit()
    done = site.outcome(run)
    assert errors == []
    assert (done.state, done.counts.written, done.counts.skipped) == ("succeeded", 4, 1)
    assert site.rows("SELECT count(*) FROM copy") == [(5,)]
    # what took long is not computed again, so the batches that repeat it are young
    assert job.calls.count(1) == 1
    assert "run.paused" not in done.event_names


@pytest.mark.slow
def test_no_deadlock_error_ever_reaches_an_application_that_provokes_them(site: Worksite) -> None:
    """It locks rows against the run's order and holds parents meanwhile, in three sessions."""

    class AdoptAll(Job):
        source = Table("t", columns=["id"])
        target = Update("n")

        def transform(self, row: Row) -> dict[str, object]:
            return {"n": 1 + row.id % 5}

    rows, sessions = 8_000, 3
    site.numbers(rows)
    site.execute("CREATE TABLE parent (id int PRIMARY KEY, name text)")
    site.execute("INSERT INTO parent SELECT i, 'p' FROM generate_series(0, 5) AS i")
    site.execute("ALTER TABLE t ADD FOREIGN KEY (n) REFERENCES parent")
    run = site.begun(AdoptAll, options=Options(batch_rows=50))
    is_over = threading.Event()
    errors: list[psycopg.Error] = []
    transactions: list[int] = []

    def provoke(number: int) -> None:
        choose = random.Random(number)
        # each session has parents and rows of its own: a deadlock is with the run, or there is none
        parent = number + 1
        mine = [key for key in range(1, rows + 1) if key % sessions == number]
        with psycopg.connect(site.url) as conn:
            while not is_over.wait(0.02):  # it has other things to do, too
                try:
                    conn.execute("SELECT FROM parent WHERE id = %s FOR UPDATE", [parent])
                    for key in sorted(choose.sample(mine, 8), reverse=True):
                        conn.execute("UPDATE t SET done = NOT done WHERE id = %s", [key])
                    conn.commit()
                    transactions.append(number)
                except psycopg.Error as error:
                    errors.append(error)
                    conn.rollback()

    threads = [threading.Thread(target=provoke, args=[number]) for number in range(sessions)]
    with site.crew(AdoptAll, run, threads=2):
        for thread in threads:
            thread.start()
        try:
            site.until_state(run, "sweeping", "verifying", "succeeded", "paused", "failed")
        finally:
            is_over.set()
            for thread in threads:
                thread.join(BOUND_SECONDS)
    done = site.outcome(run)
    assert errors == []
    assert len(transactions) > 20
    assert done.state == "succeeded"
    assert done.counts.written == rows
    assert site.value("SELECT count(*) FROM t WHERE n = 1 + mod(id, 5)") == rows
