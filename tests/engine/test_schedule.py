"""What becomes of a schedule's ticks; the clock is the test's own, the ledger is real."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import psycopg
import pytest

from backfill.cron import Cron
from backfill.engine import schedule
from backfill.engine.enqueue import prepare, write_run
from backfill.errors import UsageError
from backfill.model import PauseCause
from backfill.pg.connect import connect
from tests.engine.jobs import Increment
from tests.engine.planning import (
    HOUR,
    MINUTE,
    SECOND,
    TEN,
    AddTo,
    Planner,
)

# ------------------------------------------------------------------------------------ one tick


def test_a_tick_starts_one_run_and_the_next_is_the_next_days(plan: Planner) -> None:
    plan.add(options={"rate": "5/s"})
    assert plan.tick(TEN - SECOND) == []
    (run,) = plan.tick(TEN)
    assert plan.tick(TEN + SECOND) == []
    seen = plan.read()
    assert (seen.next_at, seen.last_tick) == (TEN + 24 * HOUR, TEN)
    assert (seen.last_outcome, seen.last_run) == ("started", run)
    ((executor, by, rate),) = plan.site.rows(
        "SELECT executor, requested_by, options->>'rate' FROM backfill.run"
    )
    assert (executor, by, rate) == ("celery", "schedule nightly", "5/s")
    ((of, who, tick, outcome),) = plan.site.rows(
        "SELECT run, caused_by, detail->>'tick', detail->>'outcome' FROM backfill.event"
        " WHERE name = 'schedule.ticked'"
    )
    assert (of, who, tick, outcome) == (run, "w1", TEN.isoformat(), "started")


def test_parameters_are_kept_as_given_and_secrets_are_read_when_it_ticks(plan: Planner) -> None:
    plan.add(AddTo, by=7)
    assert plan.read().params == {"by": 7}
    (run,) = plan.tick(TEN)
    assert plan.site.value("SELECT params FROM backfill.run WHERE id = %s", run) == {"by": 7}
    with pytest.raises(UsageError, match="secret"):
        plan.add(AddTo, name="other", key="hunter2")


def test_a_schedule_that_ticks_once_ends_with_its_tick(plan: Planner) -> None:
    plan.add(when=TEN)
    (run,) = plan.tick(TEN + SECOND)
    plan.end(run)
    assert plan.read().next_at is None
    assert plan.tick(TEN + 24 * HOUR) == []


def test_local_days_tick_once_each_whatever_their_length(plan: Planner) -> None:
    """A leader that looks each minute, over both changes of daylight saving."""
    cron = Cron.parse("30 2 * * *", "Europe/Berlin")
    plan.add(when=cron)
    for first in (datetime(2090, 3, 25, tzinfo=UTC), datetime(2090, 10, 28, tzinfo=UTC)):
        plan.site.execute("UPDATE backfill.schedule SET next_at = %s", next(cron.after(first)))
        started = []
        for minute in range(3 * 24 * 60):
            now = first + minute * MINUTE
            for run in plan.tick(now):
                started.append(now.astimezone(UTC).date())
                plan.end(run)
        assert started == [(first + n * 24 * HOUR).date() for n in range(3)]


def test_removed_it_ticks_no_more(plan: Planner) -> None:
    plan.add()
    assert schedule.remove(plan.site.conn, plan.site.ledger, "nightly", by="Ada")
    assert not schedule.remove(plan.site.conn, plan.site.ledger, "nightly", by="Ada")
    assert plan.tick(TEN) == []
    names = [row[0] for row in plan.site.rows("SELECT name FROM backfill.event WHERE run IS NULL")]
    assert names == ["schedule.added", "schedule.removed"]


# --------------------------------------------------------------------------- once, whoever looks


def test_of_many_leaders_at_the_same_instant_one_starts_it(plan: Planner) -> None:
    plan.add()
    ready = threading.Barrier(4)

    def lead(number: int) -> list[str]:
        with connect(plan.site.url) as conn:
            ready.wait(30)
            return plan.tick(TEN, conn=conn, by=f"w{number}")

    with ThreadPoolExecutor(4) as pool:
        started = [run for runs in pool.map(lead, range(4)) for run in runs]
    assert started == plan.runs()
    assert plan.ticked() == [(TEN.isoformat(), "started")]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """The first that has taken a tick stands before its run is written, until it is let go."""
    reached, let_go = threading.Event(), threading.Event()

    def stand(*args: object, **kwargs: object) -> None:
        if not reached.is_set():
            reached.set()
            assert let_go.wait(30)
        write_run(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(schedule, "write_run", stand)
    yield reached, let_go
    let_go.set()


def test_a_second_leader_waits_for_the_first_and_then_finds_it_taken(
    plan: Planner, held: tuple[threading.Event, threading.Event]
) -> None:
    plan.add()
    reached, let_go = held
    with (
        connect(plan.site.url) as first,
        connect(plan.site.url) as second,
        ThreadPoolExecutor(2) as pool,
    ):
        one = pool.submit(plan.tick, TEN, conn=first, by="w1")
        assert reached.wait(30)
        two = pool.submit(plan.tick, TEN, conn=second, by="w2")
        plan.site.until_waiting(second.info.backend_pid)
        let_go.set()
        assert one.result(30) == plan.runs()
        assert two.result(30) == []
    assert plan.ticked() == [(TEN.isoformat(), "started")]


@pytest.mark.parametrize("rule", ["due", "waiting"])
def test_a_leader_that_was_slow_finds_the_tick_taken_though_its_run_has_ended(
    plan: Planner, monkeypatch: pytest.MonkeyPatch, rule: str
) -> None:
    """One live run a job (I1) would not stop it any more: only the tick that it compares does."""
    plan.add(if_running="queue")
    if rule == "waiting":
        run = plan.site.enqueue(Increment)
        plan.tick(TEN)
        plan.end(run.id)
    quick: list[str] = []

    def slowly(*args: object, **kwargs: object) -> object:
        prepared = prepare(*args, **kwargs)  # type: ignore[arg-type]
        monkeypatch.setattr(schedule, "prepare", prepare)
        with connect(plan.site.url) as other:
            quick.extend(plan.tick(TEN + SECOND, conn=other, by="w2"))
        plan.end(quick[0])
        return prepared

    monkeypatch.setattr(schedule, "prepare", slowly)
    assert plan.tick(TEN + SECOND) == []
    assert len(quick) == 1
    assert [outcome for _, outcome in plan.ticked()].count("started") == 1
    assert plan.runs()[-1] == quick[0]


def test_a_leader_that_dies_between_tick_and_run_has_taken_nothing(
    plan: Planner, held: tuple[threading.Event, threading.Event]
) -> None:
    """Its backend is ended there, as a killed machine's is."""
    plan.add()
    reached, let_go = held
    with ThreadPoolExecutor(1) as pool:
        dying = connect(plan.site.url)
        one = pool.submit(plan.tick, TEN, conn=dying)
        assert reached.wait(30)
        plan.site.value("SELECT pg_terminate_backend(%s)", dying.info.backend_pid)
        let_go.set()
        with pytest.raises(psycopg.OperationalError):
            one.result(30)
    assert plan.runs() == []
    assert plan.read().next_at == TEN
    assert len(plan.tick(TEN + 2 * SECOND)) == 1
    assert plan.ticked() == [(TEN.isoformat(), "started")]


# ---------------------------------------------------------------------- while a run is still live


def test_by_default_a_tick_is_skipped_while_a_run_is_live(plan: Planner) -> None:
    plan.add()
    run = plan.site.enqueue(Increment)
    plan.site.pause(run, PauseCause.USER)
    assert plan.tick(TEN) == []
    seen = plan.read()
    assert (seen.last_outcome, seen.next_at) == ("skipped", TEN + 24 * HOUR)
    assert seen.last_reason == f"{run.id} is still live (paused)"
    plan.end(run.id)
    assert plan.tick(TEN + MINUTE) == []


def test_queued_ticks_make_one_run_when_the_live_one_has_ended(plan: Planner) -> None:
    plan.add(if_running="queue")
    run = plan.site.enqueue(Increment)
    for day in range(3):
        assert plan.tick(TEN + day * 24 * HOUR) == []
        assert plan.tick(TEN + day * 24 * HOUR + SECOND) == []
    assert plan.read().waiting_tick == TEN
    assert "another tick waits already" in plan.read().last_reason
    plan.end(run.id)
    late = TEN + 60 * HOUR  # long after the grace: what waits is never missed
    (started,) = plan.tick(late)
    assert plan.read().waiting_tick is None
    assert plan.tick(late + SECOND) == []
    plan.end(started)
    assert plan.tick(late + MINUTE) == []
    days = [(TEN + n * 24 * HOUR).isoformat() for n in range(3)]
    assert plan.ticked() == [
        (days[0], "waiting"),
        (days[1], "skipped"),
        (days[2], "skipped"),
        (days[0], "started"),
    ]


def test_a_tick_that_waits_is_started_once_by_many_leaders(plan: Planner) -> None:
    plan.add(if_running="queue")
    run = plan.site.enqueue(Increment)
    plan.tick(TEN)
    plan.end(run.id)
    ready = threading.Barrier(4)

    def lead(_: int) -> list[str]:
        with connect(plan.site.url) as conn:
            ready.wait(30)
            return plan.tick(TEN + HOUR, conn=conn)

    with ThreadPoolExecutor(4) as pool:
        started = [found for runs in pool.map(lead, range(4)) for found in runs]
    assert started == plan.runs()[1:]
    assert len(started) == 1


def test_a_run_that_somebody_enqueues_at_the_same_instant_makes_the_tick_busy(
    plan: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I1: one live run a job; the tick is decided again in the next round."""
    plan.add()

    def meanwhile(*args: object, **kwargs: object) -> object:
        prepared = prepare(*args, **kwargs)  # type: ignore[arg-type]
        plan.site.enqueue(Increment)
        return prepared

    monkeypatch.setattr(schedule, "prepare", meanwhile)
    assert plan.tick(TEN) == []
    assert plan.ticked() == []
    assert plan.tick(TEN + 2 * SECOND) == []
    assert plan.ticked() == [(TEN.isoformat(), "skipped")]
    assert len(plan.runs()) == 1


# ----------------------------------------------------------------------------------- missed ticks


@pytest.mark.parametrize(("late", "starts"), [(59, True), (60, True), (61, False)])
def test_a_tick_may_be_found_a_minute_late(plan: Planner, late: int, starts: bool) -> None:
    plan.add()
    assert bool(plan.tick(TEN + late * SECOND)) is starts
    assert plan.read().last_outcome == ("started" if starts else "missed")


def test_missed_ticks_are_skipped_by_default(plan: Planner) -> None:
    plan.add()
    now = TEN + 60 * HOUR
    assert plan.tick(now) == []
    seen = plan.read()
    assert (seen.last_outcome, seen.last_tick) == ("missed", TEN + 48 * HOUR)
    assert seen.next_at == TEN + 72 * HOUR
    assert "no worker was there" in seen.last_reason
    assert plan.tick(now + SECOND) == []
    assert len(plan.ticked()) == 1


def test_missed_ticks_are_made_up_for_once_where_that_is_the_rule(plan: Planner) -> None:
    plan.add(if_missed="run")
    now = TEN + 60 * HOUR
    (run,) = plan.tick(now)
    seen = plan.read()
    assert (seen.last_outcome, seen.last_tick) == ("started", TEN + 48 * HOUR)
    assert "found 43200 s late" in seen.last_reason
    plan.end(run)
    assert plan.tick(now + SECOND) == []
    assert len(plan.tick(TEN + 72 * HOUR)) == 1


def test_of_ticks_that_were_due_the_newest_alone_counts(plan: Planner) -> None:
    plan.add(when=Cron.parse("* * * * *", "UTC"))
    (run,) = plan.tick(TEN + 24 * HOUR + SECOND)
    assert plan.read().last_tick == TEN + 24 * HOUR
    plan.end(run)
    assert plan.tick(TEN + 24 * HOUR + 2 * SECOND) == []
