"""When a run will be at its end: only the hours count in which it may work."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from backfill.job import Options
from backfill.model import Counts, PauseCause
from backfill.pg.ledger import Pause
from backfill.watch import progress
from backfill.watch.progress import Progress
from tests.acceptance.crew import Crew

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def working(crew: Crew) -> Progress:
    """A run that works at noon at 10 rows a second and has 36,000 rows to go, an hour's work."""
    run = replace(crew.run(crew.enqueue("count")), state="running", total_rows=40_000)
    return Progress(
        run=run,
        counts=Counts(paged=4_000, written=4_000),
        by_phase={"walk": 1, "sweep": 0, "verify": 0, "done": 0},
        held=1,
        rows_per_second=10.0,
        usual_rate=5.0,
        pauses=[],
        workers=1,
        source="checkpoint",
        at=NOON,
    )


def within(seen: Progress, **options: str | None) -> Progress:
    """The same with other hours."""
    return replace(seen, run=replace(seen.run, options={**seen.run.options, **options}))


def paused(seen: Progress, *causes: PauseCause) -> Progress:
    """The same, paused; nothing is done, so its rate is none."""
    reasons = [
        Pause(run=seen.run.id, cause=cause, reason="", ends="", caused_by="", since=NOON)
        for cause in causes
    ]
    return replace(seen, run=replace(seen.run, state="paused"), pauses=reasons, rows_per_second=0.0)


def test_without_hours_it_is_the_rest_at_the_present_rate(working: Progress) -> None:
    assert working.eta_seconds == 3600
    assert working.eta_at == NOON + timedelta(hours=1)


def test_hours_in_which_it_may_not_work_are_waited_for(working: Progress) -> None:
    """Half an hour until the bell, and half an hour from the next opening on."""
    seen = within(working, window="22:00-12:30 UTC")
    assert seen.eta_at == datetime(2026, 6, 1, 22, 30, tzinfo=UTC)
    assert seen.eta_seconds == 10.5 * 3600
    assert seen.to_json()["eta_at"] == "2026-06-01T22:30:00+00:00"


def test_what_until_cuts_off_has_no_end(working: Progress) -> None:
    assert within(working, until="2026-06-01T12:59Z").eta_at is None
    assert within(working, until="2026-06-01T13:00Z").eta_seconds == 3600
    assert within(working, until="2026-06-01T12:59Z").to_json()["eta_seconds"] is None


def test_a_run_that_only_its_window_pauses_has_the_rate_that_it_had_before(
    working: Progress,
) -> None:
    seen = paused(within(working, window="22:00-06:00 UTC"), PauseCause.WINDOW)
    assert seen.eta_at == datetime(2026, 6, 2, 0, tzinfo=UTC)  # 36,000 rows at 5 a second


@pytest.mark.parametrize("causes", [[PauseCause.USER], [PauseCause.WINDOW, PauseCause.ERROR]])
def test_a_run_that_somebody_has_to_let_go_on_has_none(
    working: Progress, causes: list[PauseCause]
) -> None:
    assert paused(working, *causes).eta_at is None


def test_a_run_that_has_not_worked_yet_has_none(working: Progress) -> None:
    """No rate is known, and none is made up."""
    seen = paused(within(working, start_at="2026-06-02T12:00Z"), PauseCause.WINDOW)
    assert replace(seen, usual_rate=None).eta_seconds is None
    assert replace(seen, usual_rate=0.0).eta_seconds is None


def test_the_usual_rate_is_that_of_the_hours_in_which_it_might_work(crew: Crew) -> None:
    run = crew.enqueue("count", options=Options(window="22:00-06:00 UTC"))
    crew.conn.execute(
        "UPDATE backfill.run SET state = 'cancelled', started_at = '2026-06-01 20:00Z',"
        " finished_at = '2026-06-03 00:00Z'"
    )
    crew.conn.execute(
        "INSERT INTO backfill.slice (run, number, upto, paged, written)"
        f" VALUES ('{run}', 1, '{{1}}', 72000, 72000)".encode()
    )
    seen = progress.read(crew.desk.conn, crew.desk.ledger, run, checkpoint=None)
    assert seen.usual_rate == seen.rows_per_second == 72_000 / (10 * 3600)
