"""The red button: every live run pauses, and so does each that is born while it is pressed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from backfill.engine import control, lifecycle
from backfill.engine.enqueue import create_run, prepare, write_run
from backfill.job import Options
from backfill.job.declaration import declaration_of
from backfill.model import PauseCause
from backfill.pg.connect import connect, transaction
from backfill.pg.control import stopped
from tests.engine.factory import Gate, Worksite, until
from tests.engine.jobs import Increment, Label


def stop(site: Worksite, reason: str = "the site is down") -> list[str]:
    return control.stop_all(site.conn, site.ledger, reason=reason, by="Ada")


def start(site: Worksite) -> list[str] | None:
    return control.start_all(site.conn, site.ledger, by="Bob")


def all_events(site: Worksite, name: str) -> list[tuple[str, dict[str, object]]]:
    return [
        (row[0], row[1])
        for row in site.rows(
            "SELECT caused_by, detail FROM backfill.event WHERE name = %s ORDER BY id", name
        )
    ]


def test_what_lives_and_what_is_born_is_paused_until_it_is_released(site: Worksite) -> None:
    """I7: each run says why, and what ends it."""
    site.numbers(100)
    old = site.enqueue(Increment)
    assert stop(site) == [old.id]
    born = site.enqueue(Label)
    for run in (old, born):
        outcome = site.outcome(run)
        assert outcome.state == "paused"
        assert outcome.why_paused == "stop-all: all runs are stopped: the site is down (Ada)"
        assert outcome.pauses[0].ends == "`backfill start-all`"
        assert site.work(Increment if run is old else Label, run).counts.paged == 0
    assert sorted(start(site) or ()) == sorted([old.id, born.id])
    assert site.work(Increment, old).state == site.work(Label, born).state == "succeeded"
    assert all_events(site, "stop.all") == [("Ada", {"reason": "the site is down", "runs": 1})]
    assert all_events(site, "start.all") == [("Bob", {"runs": 2})]


def test_who_enqueues_is_told(site: Worksite) -> None:
    site.numbers(10)
    stop(site)
    _, found = create_run(
        site.conn,
        site.ledger,
        declaration_of(Increment),
        params={},
        options=None,
        executor="celery",
        by="the test",
    )
    assert any("start-all" in warning for warning in found.warnings)


def test_pressed_again_it_pauses_what_slipped_away_and_keeps_who_pressed_it(
    site: Worksite,
) -> None:
    site.numbers(10)
    run = site.enqueue(Increment)
    stop(site)
    site.lift(run, PauseCause.STOP_ALL)
    assert stop(site, "again") == [run.id]
    assert stop(site, "and again") == []
    button = stopped(site.conn, site.ledger)
    assert button is not None
    assert button.reason == "the site is down"
    assert len(all_events(site, "stop.all")) == 2


def test_released_without_having_been_pressed_it_does_nothing(site: Worksite) -> None:
    site.numbers(10)
    run = site.enqueue(Increment)
    assert start(site) is None
    assert site.outcome(run).state == "queued"
    assert not all_events(site, "start.all")


def test_other_causes_stay(site: Worksite) -> None:
    site.numbers(10)
    run = site.enqueue(Increment)
    site.pause(run)
    stop(site)
    site.lift(run, PauseCause.USER)
    assert site.outcome(run).state == "paused"
    site.pause(run)
    assert start(site) == [run.id]
    assert [pause.cause for pause in site.outcome(run).pauses] == ["user"]


def test_a_failed_run_that_is_retried_meanwhile_is_paused_too(site: Worksite) -> None:
    site.numbers(10)
    run = site.enqueue(Increment)
    lifecycle.fail(site.conn, site.ledger, run.id, reason="bad luck", by="the test")
    assert stop(site) == []
    lifecycle.retry(site.conn, site.ledger, run.id, by="Ada", relation="public.t", columns=["n"])
    assert [pause.cause for pause in site.outcome(run).pauses] == ["stop-all"]


def test_a_batch_in_hand_commits_and_none_begins_after_it(site: Worksite) -> None:
    """The button does not wait for batches, and they do not fail for it."""
    site.numbers(100)
    gate = Gate("before COMMIT", visit=2)
    run = site.begun(Increment, options=Options(batch_rows=10, concurrency=1))
    with site.crew(Increment, run, probe=gate):
        gate.wait()
        assert stop(site) == [run.id]
        gate.open()
    outcome = site.outcome(run)
    assert (outcome.state, outcome.counts.written) == ("paused", 20)


def until_waiting(url: str, pid: int) -> None:
    with connect(url) as watcher:
        until(
            lambda: (
                watcher.execute(
                    "SELECT FROM pg_locks WHERE pid = %s AND NOT granted", [pid]
                ).rowcount
            ),
            what=f"process {pid} to wait for a lock",
        )


@pytest.mark.parametrize("first", ["the run", "the button"])
def test_a_run_that_is_written_at_the_same_instant_does_not_slip_through(
    site: Worksite, first: str
) -> None:
    """Two sessions: whichever locks the ledger's row first, the other waits for it."""
    site.numbers(10)
    prepared = prepare(site.conn, declaration_of(Increment), params={}, options=None)
    with ThreadPoolExecutor(1) as pool, connect(site.url) as other:
        if first == "the run":
            with transaction(site.conn):
                write_run(site.conn, site.ledger, prepared, executor="local", by="the test")
                pressing = pool.submit(control.stop_all, other, site.ledger, reason="now", by="Ada")
                until_waiting(site.url, other.info.backend_pid)
            assert pressing.result(30) == [prepared.id]
        else:
            with transaction(other):
                other.execute(
                    "UPDATE backfill.ledger SET stopped_at = now(), stopped_by = 'Ada',"
                    " stop_reason = 'now'"
                )

                def write() -> None:
                    with transaction(site.conn):
                        write_run(site.conn, site.ledger, prepared, executor="local", by="x")

                writing = pool.submit(write)
                until_waiting(site.url, site.conn.info.backend_pid)
            writing.result(30)
    assert site.rows("SELECT run, cause FROM backfill.pause") == [(prepared.id, "stop-all")]
    assert site.value("SELECT state FROM backfill.run") == "paused"
