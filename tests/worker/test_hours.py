"""Runs outside their hours, among workers: told, lifted by the database's clock, nothing queued."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from backfill.cli.watch import needs_a_person
from backfill.engine import lifecycle
from backfill.job import Options
from backfill.model import PauseCause, RunState
from backfill.watch import progress
from tests.acceptance.crew import Crew
from tests.worker.test_reconcile import Rounds, let_pass, waiting


@pytest.fixture
def rounds(crew: Crew) -> Iterator[Rounds]:
    rounds = Rounds(crew)
    yield rounds
    rounds.close()


def now(crew: Crew) -> datetime:
    ((at,),) = crew.query("SELECT clock_timestamp()")
    assert isinstance(at, datetime)
    return at


def paused(crew: Crew, options: Options) -> str:
    """A run that a worker has paused for its hours; its messages are gone."""
    run = crew.enqueue("count", options=options)
    lifecycle.pause(
        crew.desk.conn,
        crew.desk.ledger,
        run,
        PauseCause.WINDOW,
        reason="said long ago",
        ends="said long ago",
        by="a worker",
    )
    waiting(crew)
    let_pass(crew, 3600)
    return run


def told(crew: Crew) -> tuple[object, ...]:
    (row,) = crew.query("SELECT reason, ends FROM backfill.pause")
    return row


def test_before_its_start_nothing_is_queued_and_after_it_the_slots_are_sent(
    crew: Crew, rounds: Rounds
) -> None:
    start = now(crew) + timedelta(hours=1)
    run = paused(crew, Options(start_at=start.isoformat()))
    assert rounds().sent == 0
    assert waiting(crew) == []
    assert crew.causes(run) == {PauseCause.WINDOW}
    assert told(crew)[1] == f"by itself at {start.isoformat(timespec='minutes')}"
    # as if an hour had passed
    crew.conn.execute(
        "UPDATE backfill.run SET options = jsonb_set(options, '{start_at}',"
        " to_jsonb((clock_timestamp() - interval '1 second')::text))"
    )
    rounds()
    assert crew.state(run) is RunState.QUEUED
    assert rounds().sent == 2
    assert waiting(crew) == [0, 1]


def test_after_until_it_stands_and_says_what_ends_that(crew: Crew, rounds: Rounds) -> None:
    run = paused(crew, Options(until=(now(crew) - timedelta(hours=1)).isoformat()))
    assert rounds().sent == 0
    assert crew.causes(run) == {PauseCause.WINDOW}
    reason, ends = told(crew)
    assert str(reason).startswith("its time was over at ")
    assert ends == f"`backfill tune {run} --until …`, or `backfill cancel {run}`"


def test_hours_that_were_changed_while_it_waits_are_told_anew(crew: Crew, rounds: Rounds) -> None:
    run = paused(crew, Options(start_at=(now(crew) + timedelta(hours=1)).isoformat()))
    rounds()
    before = told(crew)
    crew.conn.execute(
        "UPDATE backfill.run SET options = jsonb_set(options, '{start_at}',"
        " '\"2099-01-01T00:00:00+00:00\"')"
    )
    rounds()
    assert told(crew) != before
    assert told(crew)[1] == "by itself at 2099-01-01T00:00+00:00"
    assert crew.causes(run) == {PauseCause.WINDOW}


@pytest.mark.parametrize(
    ("hours", "waits"), [({"start_at": 1}, True), ({"until": -1}, False)], ids=["start", "until"]
)
def test_whoever_waits_for_a_run_waits_for_its_start_and_not_after_until(
    crew: Crew, hours: dict[str, int], waits: bool
) -> None:
    at = {name: (now(crew) + timedelta(hours=n)).isoformat() for name, n in hours.items()}
    run = paused(crew, Options(**at))  # type: ignore[arg-type]
    seen = progress.read(crew.desk.conn, crew.desk.ledger, run, checkpoint=None)
    assert needs_a_person(seen) is not waits
