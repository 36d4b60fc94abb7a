"""When a run will be at its end: only the hours in which it may work count; nothing is made up."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.engine.pace import SHARE_OF_RATE
from backfill.hours import Hours
from backfill.job import Options
from backfill.model import Counts, PauseCause
from backfill.pg.ledger import Pause
from backfill.watch import progress
from backfill.watch.eta import (
    CHECK_ROWS_PER_SECOND,
    END_SECONDS,
    LEAST_SECONDS,
    LEAST_SHARE,
    Eta,
    Turns,
    estimate,
)
from backfill.watch.progress import Progress
from tests.acceptance.crew import Crew

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
#: 36,000 rows are left of 40,000.
DONE = 4_000
#: What the end costs of 40,000 rows.
END = END_SECONDS + 40_000 / CHECK_ROWS_PER_SECOND
#: With it, that is an hour's work.
RATE = 36_000 / (3600 - END)


@pytest.fixture
def working(crew: Crew) -> Progress:
    """A run that works at noon and has an hour's work to do."""
    run = replace(
        crew.run(crew.enqueue("count")),
        state="running",
        total_rows=40_000,
        total_is_exact=True,
        started_at=NOON - timedelta(minutes=10),
    )
    return Progress(
        run=run,
        counts=Counts(paged=DONE, written=DONE),
        by_phase={"walk": 1, "sweep": 0, "verify": 0, "done": 0},
        held=1,
        rows_per_second=RATE,
        usual_rate=RATE / 2,
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
    assert working.eta_seconds == pytest.approx(3600)
    assert working.eta_at == NOON + timedelta(hours=1)


def test_the_end_costs_time_too_until_all_slices_are_checked(working: Progress) -> None:
    walked = replace(
        working,
        run=replace(working.run, state="verifying"),
        counts=Counts(paged=40_000, written=40_000),
        rows_per_second=0.0,
        by_phase={"walk": 0, "sweep": 0, "verify": 3, "done": 1},
    )
    assert walked.eta_seconds == pytest.approx(END_SECONDS + 30_000 / CHECK_ROWS_PER_SECOND)


def test_a_long_check_says_by_itself_how_fast_it_is(working: Progress) -> None:
    walked = replace(
        working,
        run=replace(working.run, state="verifying"),
        counts=Counts(paged=40_000, written=40_000),
        by_phase={"walk": 0, "sweep": 0, "verify": 3, "done": 1},
        turns=Turns(checking_since=NOON - timedelta(seconds=100)),
    )
    assert walked.eta_seconds == pytest.approx(300, abs=1)
    # too little was seen, or nothing of it is checked
    for early in (
        replace(walked, turns=Turns(checking_since=NOON - timedelta(seconds=1))),
        replace(walked, by_phase={"walk": 0, "sweep": 0, "verify": 4, "done": 0}),
    ):
        assert early.eta_seconds == pytest.approx(END_SECONDS, abs=0.1)


def test_a_limit_that_was_lowered_counts_at_once_and_signals_lower_it(working: Progress) -> None:
    tuned = within(working, rate="5/s")
    most = 5 * SHARE_OF_RATE
    assert tuned.eta_seconds == pytest.approx(36_000 / most + END)
    before = replace(tuned, rates=[RATE]).eta
    assert before is not None
    assert before.low_seconds > 36_000 / most * 0.9, "no rate of before is faster"
    slowed = replace(tuned, run=replace(tuned.run, speed=0.5))
    assert slowed.eta_seconds == pytest.approx(2 * 36_000 / most + END)
    assert within(working, rate="5000/s").eta_seconds == working.eta_seconds


def test_a_change_of_pace_widens_the_interval_until_the_rate_has_followed(
    working: Progress,
) -> None:
    def width(seen: Progress) -> float:
        assert seen.eta is not None
        assert seen.eta.high_seconds is not None
        return seen.eta.high_seconds - seen.eta.low_seconds

    changed = [NOON - timedelta(seconds=seconds) for seconds in (1, 10, 30, 600)]
    widths = [width(replace(working, turns=Turns(changed_at=at))) for at in changed]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 3 * widths[-1]
    assert widths[-1] == pytest.approx(width(working))


def test_the_ledgers_events_say_when_the_pace_was_changed_last(crew: Crew) -> None:
    run = crew.enqueue("count")
    conn, ledger = crew.desk.conn, crew.desk.ledger
    assert progress.read(conn, ledger, run, checkpoint=None).turns == Turns()
    crew.conn.execute(
        "INSERT INTO backfill.event (run, at, name, caused_by) VALUES"
        " (%(run)s, %(at)s - interval '1 min', 'run.slowed', ''),"
        " (%(run)s, %(at)s, 'run.tuned', ''),"
        " (%(run)s, %(at)s + interval '1 min', 'run.verifying', '')",
        {"run": run, "at": NOON},
    )
    expected = Turns(changed_at=NOON, checking_since=NOON + timedelta(minutes=1))
    assert progress.read(conn, ledger, run, checkpoint=None).turns == expected


def test_hours_in_which_it_may_not_work_are_waited_for(working: Progress) -> None:
    """Half an hour until the bell, and half an hour from the next opening on."""
    seen = within(working, window="22:00-12:30 UTC")
    assert seen.eta_at == datetime(2026, 6, 1, 22, 30, tzinfo=UTC)
    assert seen.eta_seconds == pytest.approx(10.5 * 3600)
    assert seen.to_json()["eta_at"] == "2026-06-01T22:30:00+00:00"


def test_what_until_cuts_off_has_no_end(working: Progress) -> None:
    late = within(working, until="2026-06-01T12:59Z")
    assert late.eta is None
    assert {name: value for name, value in late.to_json().items() if name.startswith("eta")} == {
        "eta_seconds": None,
        "eta_low_seconds": None,
        "eta_high_seconds": None,
        "eta_at": None,
    }
    # it may be in time, or not
    seen = within(working, until="2026-06-01T13:00:30Z")
    assert seen.eta_seconds == pytest.approx(3600)
    assert seen.to_json()["eta_high_seconds"] is None


def test_a_run_that_only_its_window_pauses_has_the_rate_that_it_had_before(
    working: Progress,
) -> None:
    seen = paused(within(working, window="22:00-06:00 UTC"), PauseCause.WINDOW)
    seen = replace(seen, run=replace(seen.run, started_at=NOON - timedelta(hours=7)))
    # at half the rate, from 22:00 on; the end takes as long as ever
    expected = datetime(2026, 6, 2, 0, tzinfo=UTC) - timedelta(seconds=END)
    assert seen.eta_at == pytest.approx(expected, abs=timedelta(milliseconds=1))


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
    assert replace(working, rows_per_second=None).eta_seconds is None
    assert replace(working, run=replace(working.run, started_at=None)).eta_seconds is None


def test_what_has_been_seen_for_a_moment_only_is_no_rate(working: Progress) -> None:
    began = NOON - timedelta(seconds=LEAST_SECONDS)
    assert replace(working, run=replace(working.run, started_at=began)).eta is not None
    later = began + timedelta(seconds=0.1)
    assert replace(working, run=replace(working.run, started_at=later)).eta is None


def test_more_rows_than_were_estimated_are_no_rest_of_nothing(working: Progress) -> None:
    """The statistics were wrong, and how wrong nobody knows before the end."""
    more = replace(working, counts=Counts(paged=40_001, written=40_001))
    assert replace(more, run=replace(more.run, total_is_exact=False)).eta is None
    assert more.eta is not None
    assert replace(working, run=replace(working.run, total_rows=None)).eta is None


def test_an_estimated_total_widens_the_interval(working: Progress) -> None:
    exact, estimated = (
        working.eta,
        replace(working, run=replace(working.run, total_is_exact=False)).eta,
    )
    assert exact is not None
    assert estimated is not None
    assert estimated.seconds == exact.seconds
    assert estimated.low_seconds < exact.low_seconds


def test_rates_of_late_that_differ_widen_the_interval(working: Progress) -> None:
    unsteady = replace(working, rates=[RATE / 2, RATE, RATE * 2]).eta
    assert unsteady is not None
    assert unsteady.high_seconds is not None
    assert unsteady.low_seconds < 3600 / 2 < 2 * 3600 < unsteady.high_seconds
    # those of the time before a pause, when nothing was done, are none
    assert replace(working, rates=[0.0, RATE]).eta == replace(working, rates=[RATE]).eta


ROWS = st.integers(0, 10**10)
RATES = st.floats(0.01, 1e7)
HOURS = st.builds(
    Hours.parse,
    window=st.sampled_from([None, "22:00-06:00 Europe/Berlin", "Sun 01:00-04:00 UTC"]),
    start_at=st.sampled_from([None, "2026-06-03T12:00Z"]),
    until=st.sampled_from([None, "2026-12-01T00:00Z"]),
)


def of(hours: Hours, left: int, rate: float | None, **more: float) -> Eta | None:
    given: dict[str, float] = {"seen_seconds": 60.0, **more}
    return estimate(NOON, hours, left_rows=left, unchecked_rows=left, rate=rate, **given)  # type: ignore[arg-type]


@given(HOURS, ROWS, RATES, st.lists(st.floats(0, 1e7), max_size=5), st.floats(2, 1e6))
def test_the_estimate_lies_within_its_interval_and_ahead(
    hours: Hours, left: int, rate: float, rates: list[float], seen: float
) -> None:
    eta = estimate(
        NOON,
        hours,
        left_rows=left,
        unchecked_rows=left,
        rate=rate,
        rates=rates,
        seen_seconds=seen,
    )
    if eta is None:
        return
    assert 0 <= eta.low_seconds <= eta.seconds
    if eta.high_seconds is not None:
        assert eta.seconds <= eta.high_seconds
    if hours == Hours():
        least = LEAST_SHARE * left / rate - 1e-3
        assert eta.low_seconds <= eta.seconds - least
        assert eta.high_seconds is None or eta.high_seconds >= eta.seconds + least


@given(HOURS, ROWS, ROWS, RATES)
def test_more_rows_take_longer(hours: Hours, some: int, others: int, rate: float) -> None:
    fewer, more = sorted((some, others))
    early, late = of(hours, fewer, rate), of(hours, more, rate)
    if late is not None:
        assert early is not None, "what can be done can be done of less"
        assert early.at <= late.at
        assert early.low_at <= late.low_at


@given(HOURS, ROWS)
def test_without_a_rate_or_a_time_seen_there_is_none(hours: Hours, left: int) -> None:
    assert of(hours, left, None) is None
    assert of(hours, left, 0.0) is None
    assert of(hours, left, 10.0, seen_seconds=LEAST_SECONDS - 0.01) is None


@given(
    st.sampled_from(["22:00-06:00 Europe/Berlin", "09:30-10:15 UTC", "Sun 01:00-04:00 UTC"]),
    st.integers(0, 500),
)
def test_over_a_window_it_is_what_counting_its_minutes_gives(window: str, minutes: int) -> None:
    hours = Hours.parse(window=window)
    assert hours.window is not None
    at, worked = NOON, 0
    while worked < minutes or not hours.window.is_open(at):
        worked += hours.window.is_open(at)
        at += timedelta(minutes=1)
    # rows of a minute's work each; the end's fraction of a second falls into the next open minute
    eta = estimate(
        NOON,
        hours,
        left_rows=minutes,
        unchecked_rows=0,
        rate=1 / 60,
        seen_seconds=60.0,
    )
    assert eta is not None
    assert at <= eta.at <= at + timedelta(seconds=END_SECONDS + 0.001)


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
