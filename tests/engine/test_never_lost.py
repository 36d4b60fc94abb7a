"""I2: no row is lost, whatever others do to it while the run passes; and nothing waits for them.

`Gate` and `Worksite.session` play the application: it holds rows in a transaction of its own.
"""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from backfill.engine import lifecycle
from backfill.engine.page import PATIENT_TRIES
from backfill.job import Job, Options
from backfill.model import BatchInfo, Counts, PauseCause, SlicePhase
from backfill.pg.connect import Connection
from backfill.pg.ledger import Run, totals
from tests.engine.factory import QUICK, Worksite, until
from tests.engine.jobs import (
    Increment,
    IncrementInPython,
    IncrementUnlocked,
    Label,
    LabelInPython,
)

BY_TEN = Options(batch_rows=10, slice_rows=50, concurrency=2)


@pytest.mark.parametrize("job", [Increment, IncrementInPython, Label, LabelInPython])
def test_rows_held_by_others_are_passed_by_and_processed_once_they_are_free(
    site: Worksite, job: type[Job]
) -> None:
    """I2, I5: the walk reaches its end while three kinds of foreign locks are still held."""
    site.numbers(200)
    run = site.begun(job, options=BY_TEN)
    with site.session() as other:
        other.execute("SELECT FROM t WHERE id IN (1, 10, 11) FOR UPDATE")
        other.execute("UPDATE t SET done = true WHERE id BETWEEN 95 AND 105")
        other.execute("DELETE FROM t WHERE id IN (150, 200)")
        with site.crew(job, run, threads=2):
            walked = site.until_state(run, "sweeping")
            # 3 locked, 11 updated, 2 deleted: all deferred, the others written, nobody waited
            assert (walked.counts.deferred, walked.counts.written) == (16, 184)
            other.commit()
    done = site.outcome(run)
    assert done.state == "succeeded"
    assert (done.counts.written, done.counts.gone, done.counts.paged) == (198, 2, 200)
    if job in (Increment, IncrementInPython):
        assert site.rows("SELECT DISTINCT n FROM t") == [(1,)]
    else:
        assert site.value("SELECT count(*) FROM t WHERE label = 'row ' || id") == 198
    assert site.value("SELECT count(*) FROM t WHERE done") == 11


@pytest.mark.parametrize("job", [Label, LabelInPython])
def test_a_row_that_others_finish_while_they_hold_it_is_gone_and_not_overwritten(
    site: Worksite, job: type[Job]
) -> None:
    """I2: what is ours is asked again of the newest version of the row."""
    site.numbers(20)
    run = site.begun(job)
    with site.session() as other:
        other.execute("UPDATE t SET label = 'theirs' WHERE id = 7")
        with site.crew(job, run):
            site.until_state(run, "sweeping")
            other.commit()
    done = site.outcome(run)
    assert done.state == "succeeded"
    assert (done.counts.written, done.counts.gone) == (19, 1)
    assert site.value("SELECT label FROM t WHERE id = 7") == "theirs"


@pytest.mark.parametrize(
    ("keys", "texts"),
    [
        ("i::numeric(10, 1)::numeric", ("5.0", "5.00")),
        ("make_interval(hours => 24 * i)", ("120 hours", "5 days")),
    ],
)
@pytest.mark.parametrize("job", [Increment, IncrementInPython, IncrementUnlocked])
def test_a_held_row_whose_key_becomes_an_equal_one_of_another_text_is_taken_once(
    site: Worksite, job: type[Job], keys: str, texts: tuple[str, str]
) -> None:
    """I2, I6: which keys are the same is PostgreSQL's to say; the counts add up, the run ends."""
    before, after = texts
    site.execute(f"CREATE TABLE t AS SELECT {keys} AS id, 0 AS n FROM generate_series(1, 9) AS i")
    site.execute("ALTER TABLE t ADD PRIMARY KEY (id)")
    run = site.begun(job)
    with site.session() as other:
        other.execute("SELECT FROM t WHERE id = %s FOR UPDATE", [before])
        with site.crew(job, run):
            site.until_state(run, "sweeping")
            other.execute("UPDATE t SET id = %s WHERE id = %s", [after, before])
            other.commit()
    done = site.outcome(run)
    assert done.state == "succeeded"
    assert done.counts == Counts(paged=9, written=9)
    assert site.rows("SELECT DISTINCT n FROM t") == [(1,)]
    assert site.rows("SELECT FROM backfill.deferred") == []


@pytest.mark.parametrize("job", [Increment, IncrementInPython])
def test_a_held_row_takes_the_newest_values_when_it_comes_free(
    site: Worksite, job: type[Job]
) -> None:
    """I1: the transform sees what the other transaction committed, not what was on the page."""
    site.numbers(20)
    run = site.begun(job)
    with site.session() as other:
        other.execute("UPDATE t SET n = 100 WHERE id = 7")
        with site.crew(job, run):
            site.until_state(run, "sweeping")
            other.commit()
    assert site.outcome(run).state == "succeeded"
    assert site.value("SELECT n FROM t WHERE id = 7") == 101
    assert site.value("SELECT sum(n) FROM t WHERE id <> 7") == 19


@pytest.mark.parametrize("job", [Increment, IncrementInPython])
def test_a_row_that_was_passed_by_often_is_waited_for_with_no_other_lock_in_hand(
    site: Worksite, job: type[Job]
) -> None:
    """I2, I5: the sweep's patience; the run holds no row of the user's while it waits."""
    site.numbers(20)
    run = site.begun(job)
    with site.session() as other:
        other.execute("SELECT FROM t WHERE id IN (3, 5) FOR UPDATE")
        with site.crew(job, run):

            def waits_for_us() -> bool:
                return bool(
                    site.rows(
                        "SELECT FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))",
                        other.info.backend_pid,
                    )
                )

            until(waits_for_us, what="the sweep to wait for the row")
            tries = site.rows("SELECT DISTINCT tries >= %s FROM backfill.deferred", PATIENT_TRIES)
            assert tries == [(True,)]
            free = site.rows("SELECT id FROM t WHERE id NOT IN (3, 5) FOR UPDATE NOWAIT")
            assert len(free) == 18
            other.commit()
    done = site.outcome(run)
    assert done.state == "succeeded"
    assert site.rows("SELECT DISTINCT n FROM t") == [(1,)]


def test_a_stuck_sweep_fails_the_run_naming_keys_and_the_holder_and_retry_finishes_it(
    site: Worksite,
) -> None:
    """I2, I7."""
    site.numbers(30)
    run = site.begun(Increment, options=Options(batch_rows=10, lock_timeout_seconds=0.01))
    with site.session() as other:
        other.execute("SET application_name = 'nightly report'")
        other.commit()
        other.execute("SELECT FROM t WHERE id IN (4, 17) FOR UPDATE")
        failed = site.work(Increment, run, settings=replace(QUICK, sweep_seconds=0.5))
        assert failed.state == "failed"
        reason = failed.run.failure or ""
        assert "for example 17, 4" in reason
        assert f"process {other.info.backend_pid} (nightly report" in reason
        assert failed.event("run.failed").detail["reason"] == reason
        assert site.rows("SELECT FROM backfill.write_claim") == []
    lifecycle.retry(
        site.conn, site.ledger, run.id, by="the test", relation="public.t", columns=["n"]
    )
    done = site.work(Increment, run)
    assert done.state == "succeeded"
    assert done.run.failure is None
    assert done.counts.written == 30
    assert site.rows("SELECT DISTINCT n FROM t") == [(1,)]


def test_a_paused_sweep_is_not_stuck_when_it_goes_on(site: Worksite) -> None:
    """I2: the time without progress counts only while the run works."""
    site.numbers(10)
    run = site.begun(Increment, options=Options(lock_timeout_seconds=0.01))
    with site.session() as other:
        other.execute("SELECT FROM t WHERE id = 4 FOR UPDATE")
        with site.crew(Increment, run):
            site.until_state(run, "sweeping")
            site.pause(run)
        # as if the pause had taken an hour
        site.execute(_AGED)
        site.lift(run, PauseCause.USER)
        with site.crew(Increment, run):
            tried = site.value("SELECT tries FROM backfill.deferred")
            until(
                lambda: site.value("SELECT tries FROM backfill.deferred") > tried + 1,
                what="the sweep to try the row again",
            )
            assert site.outcome(run).state == "sweeping"
            other.commit()
    assert site.outcome(run).state == "succeeded"


_AGED = "UPDATE backfill.slice SET progress_at = progress_at - interval '1 hour'"


def _tries_until_freed(site: Worksite, run: Run, other: Connection) -> None:
    """The sweep tries the row again and again, and takes it when the other session ends."""
    tried = site.value("SELECT tries FROM backfill.deferred")
    until(
        lambda: site.value("SELECT tries FROM backfill.deferred") > tried + 1,
        what="the sweep to try the row again",
    )
    assert site.outcome(run).state == "sweeping"
    other.commit()


def test_a_sweep_is_not_stuck_for_the_time_that_the_walk_took(site: Worksite) -> None:
    """I2: nobody tried the deferred rows while other slices were walked."""

    class WalkedLongAgo(Increment):
        def after_batch(self, batch: BatchInfo) -> None:
            if batch.phase is SlicePhase.WALK:
                site.execute(_AGED)

    site.numbers(10)
    run = site.begun(WalkedLongAgo, options=Options(lock_timeout_seconds=0.01))
    with site.session() as other:
        other.execute("SELECT FROM t WHERE id = 4 FOR UPDATE")
        with site.crew(WalkedLongAgo, run):
            site.until_state(run, "sweeping", "failed")
            _tries_until_freed(site, run, other)
    assert site.outcome(run).state == "succeeded"


def test_a_sweep_is_not_stuck_for_the_time_that_the_workers_were_away(site: Worksite) -> None:
    """I2: the time without progress counts only while somebody tries."""
    site.numbers(10)
    run = site.begun(Increment, options=Options(lock_timeout_seconds=0.01))
    with site.session() as other:
        other.execute("SELECT FROM t WHERE id = 4 FOR UPDATE")
        with site.crew(Increment, run) as crew:
            site.until_state(run, "sweeping")
            until(
                lambda: site.value("SELECT not_before > '-infinity' FROM backfill.slice"),
                what="the sweep to have tried the row",
            )
            crew.stop()
        # as if they had been away for an hour
        site.execute(_AGED + ", not_before = not_before - interval '1 hour'")
        with site.crew(Increment, run):
            _tries_until_freed(site, run, other)
    assert site.outcome(run).state == "succeeded"


@pytest.mark.parametrize("job", [Increment, Label])
def test_a_run_waits_for_writers_that_are_older_than_itself(site: Worksite, job: type[Job]) -> None:
    """I2: a row with a small key that commits late would lie behind the cursor."""
    site.numbers(50)
    site.execute("UPDATE t SET id = id + 100")
    run = site.enqueue(job)
    with site.session() as other:
        other.execute("INSERT INTO t (id) VALUES (5)")
        with site.crew(job, run, threads=2):
            waiting = site.until_event(run, "run.waiting")
            assert waiting.detail["pids"] == [other.info.backend_pid]
            # a later writer is not waited for: here it stays open until the end
            with site.session() as later:
                later.execute("INSERT INTO t (id) VALUES (6)")
                assert site.outcome(run).state == "queued"
                other.commit()
                done = site.until_state(run, "succeeded")
    assert done.counts.written == 51
    assert site.value("SELECT n = 1 OR label = 'row 5' FROM t WHERE id = 5")


def test_a_run_waits_for_an_older_writer_of_a_partition_of_a_partition(site: Worksite) -> None:
    """I2: who writes to it by its own name locks none of the tables above it."""
    site.execute(
        "CREATE TABLE t (id bigint, part int, n int NOT NULL DEFAULT 0, PRIMARY KEY (id, part))"
        " PARTITION BY RANGE (id)"
    )
    site.execute(
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (1000) PARTITION BY LIST (part)"
    )
    site.execute("CREATE TABLE t1a PARTITION OF t1 FOR VALUES IN (1)")
    site.execute("INSERT INTO t SELECT i, 1 FROM generate_series(100, 120) i")
    run = site.enqueue(Increment)
    with site.session() as other:
        other.execute("INSERT INTO t1a VALUES (5, 1)")
        with site.crew(Increment, run):
            until(
                lambda: {"run.waiting", "run.succeeded"} & set(site.outcome(run).event_names),
                what="the run to wait for it, or to end without",
            )
            other.commit()
    assert site.outcome(run).state == "succeeded"
    assert site.rows("SELECT id FROM t WHERE n = 0") == []


def test_at_the_bound_a_run_with_a_todo_begins_naming_the_writer_and_still_finds_its_row(
    site: Worksite,
) -> None:
    """I2: the completion check sends the slice back."""
    site.numbers(50)
    site.execute("UPDATE t SET id = id + 100")
    run = site.enqueue(Label, options=Options(batch_rows=50))
    verifying = threading.Event()

    with site.session() as other:
        other.execute("INSERT INTO t (id) VALUES (5)")
        pid = other.info.backend_pid

        def commit_once_passed(point: str) -> None:
            if point == "before COMMIT" and not verifying.is_set():
                verifying.set()
                other.commit()

        settings = replace(QUICK, begin_wait_seconds=0.3)
        done = site.work(Label, run, settings=settings, probe=commit_once_passed)
    assert done.event("run.begun").detail["older_writers"] == [pid]
    assert done.state == "succeeded"
    assert done.run.passes == 1
    assert "run.rewalked" in done.event_names
    assert site.value("SELECT label FROM t WHERE id = 5") == "row 5"
    assert done.counts.written == 51


def test_at_the_bound_a_run_without_a_todo_pauses_naming_the_writer_and_then_waits_anew(
    site: Worksite,
) -> None:
    """I2: nothing could find such a row again, so nothing is risked."""
    site.numbers(50)
    site.execute("UPDATE t SET id = id + 100")
    run = site.enqueue(Increment)
    settings = replace(QUICK, begin_wait_seconds=0.2)
    with site.session() as other:
        other.execute("INSERT INTO t (id) VALUES (5)")
        paused = site.work(Increment, run, settings=settings)
        assert paused.state == "paused"
        assert str(other.info.backend_pid) in paused.why_paused
        assert paused.counts.paged == 0
        site.lift(run)
        assert site.work(Increment, run, settings=settings).state == "paused"
        other.commit()
    site.lift(run)
    done = site.work(Increment, run, settings=settings)
    assert done.state == "succeeded"
    assert done.counts.written == 51
    assert site.rows("SELECT DISTINCT n FROM t") == [(1,)]


def test_the_slices_add_up_to_the_run_and_tile_its_keys(site: Worksite) -> None:
    """I2: by slice and by run, each key paged has one outcome; the slices leave no gap."""
    site.numbers(237)
    site.execute("DELETE FROM t WHERE mod(id, 7) = 0")
    run = site.begun(Increment, options=BY_TEN)
    with site.session() as other:
        other.execute("DELETE FROM t WHERE id IN (1, 100, 237)")
        with site.crew(Increment, run, threads=2):
            site.until_state(run, "sweeping")
            other.commit()
    by_slice = site.rows(
        'SELECT "after", upto, paged, written + gone FROM backfill.slice ORDER BY number'
    )
    assert [line[0] for line in by_slice] == [None, *(line[1] for line in by_slice[:-1])]
    assert by_slice[-1][1] == ["237"]
    assert all(paged == settled for *_, paged, settled in by_slice)
    assert sum(line[2] for line in by_slice) == totals(site.conn, site.ledger, run.id).counts.paged
    assert totals(site.conn, site.ledger, run.id).counts.paged == 204
