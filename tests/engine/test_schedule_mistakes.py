"""Ticks that cannot be enqueued, and schedules that cannot be added."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from backfill.cron import Cron
from backfill.engine import schedule
from backfill.errors import RefusedError, UnreachableError, UsageError
from backfill.job import Job, Options
from backfill.job.declaration import Declaration
from backfill.pg.schedules import list_schedules
from tests.engine.planning import (
    HOUR,
    MINUTE,
    SECOND,
    TEN,
    AddTo,
    Broken,
    Lost,
    Planner,
)

# ------------------------------------------------------------------------------ what cannot be done


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        (Lost, "no_such_table"),
        (Broken, "SystemExit: no licence"),
    ],
)
def test_what_cannot_be_enqueued_has_failed_once_and_says_why(
    plan: Planner, job: type[Job], reason: str
) -> None:
    plan.add(job)
    plan.add(name="good")
    assert len(plan.tick(TEN)) == 1, "the other schedule is not disturbed"
    assert plan.tick(TEN + SECOND) == []
    seen = plan.read()
    assert (seen.last_outcome, seen.next_at) == ("failed", TEN + 24 * HOUR)
    assert reason in seen.last_reason
    assert sorted(outcome for _, outcome in plan.ticked()) == ["failed", "started"]


def test_a_job_that_is_gone_has_failed(plan: Planner) -> None:
    plan.add()
    plan.site.execute("UPDATE backfill.schedule SET job = 'gone'")
    assert plan.tick(TEN) == []
    assert "there is no job gone" in plan.read().last_reason


def test_an_option_that_moved_the_job_to_another_database_has_failed(plan: Planner) -> None:
    plan.add()
    plan.site.execute(
        "UPDATE backfill.schedule SET options = jsonb_build_object('database', 'other')"
    )
    assert plan.tick(TEN) == []
    assert "works on database other now" in plan.read().last_reason


def test_a_lock_that_passes_is_waited_for_and_one_that_stays_is_the_reason(plan: Planner) -> None:
    plan.add()
    with plan.site.session() as other:
        other.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        assert plan.tick(TEN) == []
        assert plan.ticked() == []
    (run,) = plan.tick(TEN + 10 * SECOND)
    plan.end(run)
    plan.site.execute("UPDATE backfill.schedule SET if_missed = 'run'")
    with plan.site.session() as other:
        other.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        assert plan.tick(TEN + 24 * HOUR + 2 * MINUTE) == []
    assert plan.read().last_outcome == "failed"
    assert "a lock keeps every batch out" in plan.read().last_reason


def test_while_the_database_is_away_nothing_is_decided(
    plan: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan.add()

    def away(name: str) -> Declaration:
        raise UnreachableError("PostgreSQL is away")

    monkeypatch.setattr("tests.engine.planning.declare", away)
    with pytest.raises(UnreachableError):
        plan.tick(TEN)
    assert plan.read().next_at == TEN


# ------------------------------------------------------------------------------------ adding one


@pytest.mark.parametrize("name", ["", "two words", "-x", "ü", "a" * 64, "a;b"])
def test_a_name_that_could_not_be_typed_is_refused(plan: Planner, name: str) -> None:
    with pytest.raises(UsageError, match="no name for a schedule"):
        plan.add(name=name)


def test_a_second_schedule_of_the_same_name_is_refused(plan: Planner) -> None:
    plan.add()
    with pytest.raises(RefusedError, match="there is a schedule nightly already"):
        plan.add()
    assert len(list_schedules(plan.site.conn, plan.site.ledger)) == 1


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda plan: plan.add(when=datetime(2013, 1, 1, tzinfo=UTC)), "has passed"),
        (lambda plan: plan.add(options={"until": "2013-01-01T00:00Z"}), "before the first tick"),
        (lambda plan: plan.add(AddTo, bx=1), "has no parameter bx"),
        (lambda plan: plan.add(AddTo, by="many"), "by"),
        (lambda plan: plan.add(options={"rat": "5/s"}), "no option rat"),
        (lambda plan: plan.add(options={"rate": "fast"}), "fast"),
    ],
    ids=["past", "end", "parameter", "its type", "option", "its value"],
)
def test_what_cannot_be_is_refused_when_it_is_added(
    plan: Planner, wrong: Callable[[Planner], None], told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        wrong(plan)
    assert list_schedules(plan.site.conn, plan.site.ledger) == []


def test_the_next_ticks_of_all_are_told_in_their_order(plan: Planner) -> None:
    plan.add()
    plan.add(AddTo, name="once", when=TEN + HOUR)
    plan.add(Lost, name="hourly", when=Cron.parse("0 * * * *", "UTC"))
    listed = list_schedules(plan.site.conn, plan.site.ledger)
    found = schedule.upcoming(listed, TEN - HOUR, count=5)
    assert [(at, each.name) for at, each in found] == [
        (TEN, "hourly"),
        (TEN, "nightly"),
        (TEN + HOUR, "hourly"),
        (TEN + HOUR, "once"),
        (TEN + 2 * HOUR, "hourly"),
    ]


def test_a_run_outside_its_window_is_written_all_the_same(plan: Planner) -> None:
    """It waits for its window by itself, as any other run does."""
    plan.add(options={"window": "Mon 00:00-00:01"})
    (run,) = plan.tick(TEN)
    options = plan.site.value("SELECT options FROM backfill.run WHERE id = %s", run)
    assert Options.from_json(options).window == "Mon 00:00-00:01"
