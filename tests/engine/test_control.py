"""Pause, resume, cancel, retry; epochs and slots: who may commit, and who may not (I1, I3, I7)."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial

import pytest

from backfill import operate
from backfill.engine import control, lifecycle
from backfill.engine.batch import execute
from backfill.engine.faults import NotAllowedError, StaleEpochError
from backfill.engine.report import Ended
from backfill.engine.work import work
from backfill.errors import ExitCode, LockedOutError, RefusedError
from backfill.job import Job, Options
from backfill.model import PauseCause, SlicePhase
from backfill.operate.waiting import for_batches_of
from backfill.pg import freeing, slices
from backfill.pg.connect import Limits, transaction
from backfill.pg.ledger import Run
from backfill.pg.slices import Slice, SlotTakenError
from backfill.project import Desk
from tests.engine.factory import QUICK, AtVisit, Gate, Worksite, until
from tests.engine.jobs import Increment, IncrementInPython

BY_TEN = Options(batch_rows=10, slice_rows=50)


def _claim(site: Worksite, run: Run, *, slot: int = 0, holder: str = "the test") -> Slice | None:
    return slices.claim(
        site.conn,
        site.ledger,
        run.id,
        SlicePhase.WALK,
        holder=holder,
        slot=slot,
        lease_seconds=60,
    )


@pytest.mark.parametrize("job", [Increment, IncrementInPython])
def test_a_pause_lets_the_batch_in_hand_finish_and_no_other_begin(
    site: Worksite, job: type[Job]
) -> None:
    site.numbers(100)
    run = site.enqueue(job, options=BY_TEN)
    gate = Gate("before COMMIT", visit=3)
    with site.crew(job, run, probe=gate):
        gate.wait()
        assert site.pause(run)
        gate.open()
    paused = site.outcome(run)
    assert paused.state == "paused"
    assert paused.counts.written == 30
    assert paused.why_paused == "user: asked for"
    event = paused.event("run.paused")
    assert (event.caused_by, event.detail["ends"]) == ("Ada", "by resume")
    assert site.rows("SELECT FROM backfill.slice WHERE holder IS NOT NULL") == []

    site.lift(run, PauseCause.USER)
    done = site.work(job, run)
    assert done.state == "succeeded"
    assert site.rows("SELECT DISTINCT n FROM t") == [(1,)]


def test_causes_stand_side_by_side_and_each_is_lifted_by_its_own_kind(site: Worksite) -> None:
    """I7: resuming by hand does not open a closed window."""
    site.numbers(10)
    run = site.begun(Increment)
    assert site.pause(run, PauseCause.USER)
    assert site.pause(run, PauseCause.WINDOW)
    assert not site.pause(run, PauseCause.USER), "it is there already"
    site.lift(run, PauseCause.USER)
    assert site.outcome(run).state == "paused"
    assert not lifecycle.lift(site.conn, site.ledger, run.id, [PauseCause.USER], by="the test"), (
        "it is gone already"
    )
    site.lift(run, PauseCause.WINDOW)
    assert site.outcome(run).state == "running"


def test_a_run_that_is_paused_before_it_began_goes_back_to_the_beginning(site: Worksite) -> None:
    site.numbers(10)
    run = site.enqueue(Increment)
    site.pause(run)
    assert site.work(Increment, run).counts.paged == 0
    site.lift(run, PauseCause.USER)
    assert site.outcome(run).state == "queued"
    assert site.work(Increment, run).state == "succeeded"


@pytest.mark.parametrize("end", [lifecycle.cancel, lifecycle.fail])
@pytest.mark.parametrize("job", [Increment, IncrementInPython])
def test_when_cancel_returns_no_batch_commits_any_more(
    site: Worksite, job: type[Job], end: object
) -> None:
    """It waits for the batch in hand, whose rows count; the next one finds its epoch raised."""
    site.numbers(100)
    run = site.enqueue(job, options=BY_TEN)
    gate = Gate("before COMMIT", visit=3)
    returned = threading.Event()
    seen: list[int] = []

    def finish() -> None:
        other = Worksite(site.url)
        (lifecycle.cancel if end is lifecycle.cancel else lifecycle.fail)(
            other.conn, other.ledger, run.id, reason="enough", by="Ada"
        )
        seen.append(other.value("SELECT sum(n) FROM t"))
        returned.set()
        other.close()

    thread = threading.Thread(target=finish)
    with site.crew(job, run, probe=gate):
        gate.wait()
        thread.start()
        until(
            lambda: site.rows(
                "SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
                " WHERE NOT l.granted AND a.datname = current_database()"
            ),
            what="cancel to wait for the batch",
        )
        assert not returned.is_set()
        gate.open()
        thread.join()
    ended = site.outcome(run)
    assert ended.state == ("cancelled" if end is lifecycle.cancel else "failed")
    # the batch in hand counts, and any that took the slice's row before cancel woke up
    assert 30 <= seen[0] < 100
    assert seen == [site.value("SELECT sum(n) FROM t")] == [ended.counts.written]
    assert ended.event(f"run.{ended.state}").detail["reason"] == "enough"
    assert site.rows("SELECT FROM backfill.write_claim") == []


def test_a_batch_that_does_not_end_in_time_is_told_by_cancel_which_changes_nothing(
    site: Worksite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I5: the wait has a bound, and a batch's own statements may have a longer one."""
    short = Limits(lock_timeout_seconds=0.1, statement_timeout_seconds=5.0)
    monkeypatch.setattr(lifecycle, "transaction", partial(transaction, limits=short))
    site.numbers(100)
    run = site.enqueue(Increment, options=replace(BY_TEN, statement_timeout_seconds=120))
    desk = Desk(database="default", url=site.url, conn=site.conn, ledger=site.ledger)
    gate = Gate("before COMMIT", visit=3)
    with site.crew(Increment, run, probe=gate):
        gate.wait()
        now = site.rows("SELECT number, epoch, holder, slot, phase FROM backfill.slice")
        with pytest.raises(LockedOutError, match="has not ended in 0 s") as told:
            operate.cancel(desk, site.outcome(run).run, reason="enough", by="Ada")
        assert told.value.exit_code == ExitCode.REFUSED
        assert "may take 120 s. `backfill pause" in told.value.remedy
        with pytest.raises(LockedOutError), for_batches_of(run):
            lifecycle.release_quarantine(site.conn, site.ledger, run.id, by="Ada")
        assert site.outcome(run).state == "running"
        assert site.rows("SELECT number, epoch, holder, slot, phase FROM backfill.slice") == now
        gate.open()
    done = site.outcome(run)
    assert (done.state, done.counts.written) == ("succeeded", 100)
    assert "run.cancelled" not in done.event_names


def test_a_run_that_has_ended_cannot_be_cancelled_paused_or_retried(site: Worksite) -> None:
    site.numbers(10)
    done = site.run(Increment)
    with pytest.raises(RefusedError, match="is succeeded already"):
        lifecycle.cancel(site.conn, site.ledger, done.run.id, reason="late", by="Ada")
    assert not site.pause(done.run)
    with pytest.raises(RefusedError, match="only a failed run can be retried"):
        lifecycle.retry(
            site.conn, site.ledger, done.run.id, by="Ada", relation="public.t", columns=["n"]
        )
    with pytest.raises(RefusedError, match="its quarantine is closed"):
        lifecycle.release_quarantine(site.conn, site.ledger, done.run.id, by="Ada")


def test_a_failed_run_is_not_retried_beside_a_live_run_of_its_job(site: Worksite) -> None:
    """I1: one live run per job, also on this way."""
    site.numbers(10)
    failed = site.begun(Increment)
    lifecycle.fail(site.conn, site.ledger, failed.id, reason="for the test", by="the test")
    site.enqueue(Increment)
    with pytest.raises(RefusedError, match="increment has another live run"):
        lifecycle.retry(
            site.conn, site.ledger, failed.id, by="Ada", relation="public.t", columns=["n"]
        )
    assert site.outcome(failed).state == "failed"


@pytest.mark.parametrize("job", [Increment, IncrementInPython])
def test_a_holder_whose_epoch_was_raised_between_two_batches_writes_nothing(
    site: Worksite, job: type[Job]
) -> None:
    """I3: it may be as late as it likes."""
    site.numbers(100)
    run = site.begun(job, options=BY_TEN)
    bench = site.bench(job, run)
    held = slices.place(
        bench.conn,
        site.ledger,
        run.id,
        after=None,
        upto=("50",),
        is_last=False,
        holder="the slow one",
        slot=0,
        lease_seconds=60,
    )
    assert held is not None
    assert execute(bench, held, rows=10).added.written == 10
    with transaction(site.conn):
        slices.raise_epochs(site.conn, site.ledger, run.id)
    taken_over = _claim(site, run, holder="the next one")
    assert taken_over is not None
    assert (taken_over.epoch, taken_over.cursor) == (held.epoch + 2, ("10",))

    with pytest.raises(StaleEpochError):
        execute(bench, held, rows=10)
    assert not slices.heartbeat(bench.conn, site.ledger, held, lease_seconds=60)
    assert not slices.release(bench.conn, site.ledger, held)
    assert site.value("SELECT sum(n) FROM t") == 10
    assert execute(bench, taken_over, rows=10).added.written == 10
    bench.conn.close()


def test_an_epoch_raised_in_the_middle_of_a_batch_waits_for_it(site: Worksite) -> None:
    """I1, I3: what has committed under the old epoch is where the new holder begins."""
    site.numbers(50)
    run = site.enqueue(Increment, options=BY_TEN)
    gate = Gate("before COMMIT", visit=2)
    with site.crew(Increment, run, probe=gate):
        gate.wait()
        freed, _ = _expire_leases(site)
        assert freed == [], "the batch holds its slice's row, whatever the lease says"
        gate.open()
    done = site.outcome(run)
    assert done.state == "succeeded"
    assert site.rows("SELECT DISTINCT n FROM t") == [(1,)]


def _expire_leases(site: Worksite) -> tuple[list[freeing.Lapsed], list[freeing.Lapsed]]:
    site.execute(
        "WITH free AS (SELECT run, number FROM backfill.slice FOR UPDATE SKIP LOCKED)"
        " UPDATE backfill.slice s SET lease_until = '-infinity' FROM free"
        " WHERE s.run = free.run AND s.number = free.number AND s.holder IS NOT NULL"
    )
    return freeing.free_lapsed(site.conn, site.ledger)


def test_a_batch_under_a_state_that_allows_no_work_writes_nothing(site: Worksite) -> None:
    """I1: the state is read under the slice's lock, in the batch's own transaction."""
    site.numbers(50)
    run = site.begun(Increment, options=BY_TEN)
    bench = site.bench(Increment, run)
    held = slices.place(
        bench.conn,
        site.ledger,
        run.id,
        after=None,
        upto=("50",),
        is_last=True,
        holder="the test",
        slot=0,
        lease_seconds=60,
    )
    assert held is not None
    site.pause(run)
    with pytest.raises(NotAllowedError, match="paused"):
        execute(bench, held, rows=10)
    assert site.value("SELECT sum(n) FROM t") == 0
    bench.conn.close()


def test_a_doubled_message_finds_its_slot_taken_and_changes_nothing(site: Worksite) -> None:
    """I3: both where a free slice is claimed and where a new one is placed."""
    site.numbers(100)
    run = site.begun(Increment, options=BY_TEN)
    bench = site.bench(Increment, run)
    placed = slices.place(
        site.conn,
        site.ledger,
        run.id,
        after=None,
        upto=("50",),
        is_last=False,
        holder="the first",
        slot=0,
        lease_seconds=60,
    )
    assert placed is not None
    report = work(bench, slot=0, budget_seconds=5)
    assert (report.ended, report.batches) == (Ended.SLOT_TAKEN, 0)
    assert site.value("SELECT frontier FROM backfill.run") == ["50"]

    # another slice is free, but the slot is filled all the same
    with transaction(site.conn):
        slices.raise_epochs(site.conn, site.ledger, run.id)
    site.execute(
        'INSERT INTO backfill.slice (run, number, "after", upto, holder, slot, lease_until)'
        " VALUES (%s, 2, '{50}', '{60}', 'the first', 0, clock_timestamp() + interval '1 min')",
        run.id,
    )
    with pytest.raises(SlotTakenError):
        _claim(site, run)
    assert work(bench, slot=0, budget_seconds=5).ended is Ended.SLOT_TAKEN
    bench.conn.close()


def test_the_slice_of_a_lost_holder_goes_on_when_its_lease_has_run_out(site: Worksite) -> None:
    site.numbers(100)
    run = site.begun(Increment, options=BY_TEN)
    lost = slices.place(
        site.conn,
        site.ledger,
        run.id,
        after=None,
        upto=("50",),
        is_last=False,
        holder="the lost one",
        slot=0,
        lease_seconds=0.2,
    )
    assert lost is not None
    done = site.work(Increment, run, threads=2)
    assert done.state == "succeeded"
    assert site.rows("SELECT DISTINCT n FROM t") == [(1,)]
    assert site.value("SELECT epoch FROM backfill.slice WHERE number = 1") >= lost.epoch + 1


def test_a_worker_that_is_stopped_finishes_its_batch_and_gives_its_slice_back(
    site: Worksite,
) -> None:
    site.numbers(100)
    run = site.enqueue(Increment, options=BY_TEN)
    gate = Gate("before COMMIT", visit=3)
    with site.crew(Increment, run, probe=gate) as crew:
        gate.wait()
        crew.stop()
        gate.open()
    stopped = site.outcome(run)
    assert stopped.state == "running"
    assert stopped.counts.written == 30
    assert site.rows("SELECT FROM backfill.slice WHERE holder IS NOT NULL") == []
    assert site.work(Increment, run).state == "succeeded"


def test_a_call_of_work_ends_when_its_budget_is_used_up(
    site: Worksite,
) -> None:
    site.numbers(100)
    run = site.begun(Increment, options=BY_TEN)
    bench = site.bench(Increment, run)
    report = work(bench, slot=0, budget_seconds=0.0)
    assert (report.ended, report.batches) == (Ended.BUDGET, 0)
    report = work(bench, slot=0, budget_seconds=60.0)
    assert (report.ended, report.state) == (Ended.NOT_WORKING, "succeeded")
    assert (report.batches, report.counts.written) == (10, 100)
    bench.conn.close()


def test_a_changed_declaration_can_be_accepted_and_says_who_did(site: Worksite) -> None:
    site.numbers(10)
    run = site.enqueue(Increment)
    control.accept_changes(
        site.conn,
        site.ledger,
        run.id,
        fingerprint="0123456789abcdef",
        declaration={"version": 2},
        version=2,
        by="Ada",
    )
    changed = site.outcome(run)
    assert (changed.run.fingerprint, changed.run.job_version) == ("0123456789abcdef", 2)
    assert changed.event("run.changed_accepted").caused_by == "Ada"


@pytest.mark.parametrize("slot_count", [1, 3])
def test_as_many_slices_are_held_at_once_as_there_are_slots(
    site: Worksite, slot_count: int
) -> None:
    """And no slice is ever held twice: the rows say so."""
    site.numbers(600)
    most: list[int] = []

    def look() -> None:
        most.append(site.value("SELECT count(*) FROM backfill.slice WHERE holder IS NOT NULL"))

    run = site.enqueue(Increment, options=BY_TEN)
    probe = AtVisit("before COMMIT", 20, look)
    done = site.work(Increment, run, threads=slot_count, probe=probe, settings=QUICK)
    assert done.state == "succeeded"
    assert 1 <= most[0] <= slot_count
    assert site.rows("SELECT DISTINCT n FROM t") == [(1,)]
