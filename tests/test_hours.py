"""`backfill.hours`: when a run may work, and when so much work will be over.

The end of work is compared with a reference that looks at every minute by itself.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backfill.hours import FARTHEST, Hours, Shut
from backfill.window import Window
from tests.profiles import share_of_examples

BERLIN = ZoneInfo("Europe/Berlin")
NIGHTS = "22:00-06:00 Europe/Berlin"
MINUTE = timedelta(minutes=1)
HOUR = 3600.0


def at(text: str, zone: ZoneInfo | None = None) -> datetime:
    """The instant that a wall clock (of UTC when no zone is given) shows as `text`."""
    return datetime.fromisoformat(text).replace(tzinfo=zone or UTC)


# ------------------------------------------------------------------------------ may it work now?


@pytest.mark.parametrize(
    ("hours", "now", "shut"),
    [
        (Hours.parse(), "2026-06-01T12:00", None),
        (Hours.parse(start_at="2026-06-01T14:00+02:00"), "2026-06-01T12:00", None),
        (
            Hours.parse(start_at="2026-06-01T14:01+02:00"),
            "2026-06-01T12:00",
            Shut(at("2026-06-01T12:01"), "it starts at 2026-06-01T12:01+00:00"),
        ),
        (
            Hours.parse(start_at="2026-06-01T13:00Z", window="22:00-06:00"),
            "2026-06-01T12:00",
            Shut(at("2026-06-01T22:00"), "it starts at 2026-06-01T13:00+00:00"),
        ),
        (Hours.parse(until="2026-06-01T12:01Z"), "2026-06-01T12:00", None),
        (
            Hours.parse(until="2026-06-01T12:00Z"),
            "2026-06-01T12:00",
            Shut(None, "its time was over at 2026-06-01T12:00+00:00 (until)"),
        ),
        (
            Hours.parse(window="22:00-06:00", until="2026-06-01T22:00Z"),
            "2026-06-01T12:00",
            Shut(
                None,
                "outside its window (22:00-06:00 UTC), which does not open again before"
                " 2026-06-01T22:00+00:00 (until)",
            ),
        ),
        (
            Hours.parse(window="22:00-06:00; not 2026-06-01..2026-06-30"),
            "2026-06-01T23:00",
            Shut(
                at("2026-07-01T00:00"),
                "outside its window (22:00-06:00 UTC; not 2026-06-01..2026-06-30 UTC)",
            ),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_that_may_not_work_says_why_and_until_when(
    hours: Hours, now: str, shut: Shut | None
) -> None:
    assert hours.shut(at(now)) == shut


# ------------------------------------------------------------------------- when will it be over?


def test_without_bounds_work_is_over_when_it_is_done() -> None:
    assert Hours().finish(at("2026-06-01T12:00"), 90.5) == at("2026-06-01T12:01:30.5")


def test_only_hours_of_the_window_count() -> None:
    """Ten hours of work that begin at noon: eight in the first night, two in the next."""
    hours = Hours.parse(window=NIGHTS)
    end = hours.finish(at("2026-06-01T12:00", BERLIN), 10 * HOUR)
    assert end == at("2026-06-03T00:00", BERLIN)


@pytest.mark.parametrize(
    ("day", "end"),
    [("2026-03-28", "2026-03-29T23:00"), ("2026-10-24", "2026-10-25T05:00")],
    ids=["spring", "autumn"],
)
def test_a_night_has_the_hours_that_daylight_saving_leaves_it(day: str, end: str) -> None:
    hours = Hours.parse(window=NIGHTS)
    # seven in spring's night, and the eighth in the next; autumn's night has nine
    assert hours.finish(at(f"{day}T12:00", BERLIN), 8 * HOUR) == at(end, BERLIN)


def test_work_that_ends_just_at_the_bell_is_over_then() -> None:
    hours = Hours.parse(window="22:00-06:00", until="2026-06-02T06:00Z")
    assert hours.finish(at("2026-06-01T12:00"), 8 * HOUR) == at("2026-06-02T06:00")


def test_work_that_would_outlast_until_is_never_over() -> None:
    hours = Hours.parse(window="22:00-06:00", until="2026-06-02T06:00Z")
    assert hours.finish(at("2026-06-01T12:00"), 8 * HOUR + 1) is None
    assert hours.finish(at("2026-06-03T12:00"), 1) is None


def test_before_its_start_no_hour_counts() -> None:
    hours = Hours.parse(start_at="2026-06-01T14:00+02:00")
    assert hours.finish(at("2026-06-01T06:00"), HOUR) == at("2026-06-01T13:00")


@pytest.mark.parametrize("seconds", [FARTHEST.total_seconds() + 1, 1e30])
def test_an_end_beyond_every_plan_is_none(seconds: float) -> None:
    assert Hours().finish(at("2026-06-01T12:00"), seconds) is None
    assert Hours.parse(window="Mon 00:00-00:01").finish(at("2026-06-01T12:00"), 86_400.0) is None


# --------------------------------------------------------------------------------- the reference

WINDOWS = [
    None,
    NIGHTS,
    "Mon-Fri 01:00-05:00 UTC; Sat-Sun",
    "02:30-03:30 Europe/Berlin",
    "22:00-06:00 Europe/Berlin; not 2026-03-29; not 2026-10-25",
    "not 2026-03-28..2026-03-30 Europe/Berlin",
    "00:00-24:00",
]
NEAR = [at("2026-03-28T00:00"), at("2026-10-24T00:00"), at("2026-06-01T00:00")]


@st.composite
def plans(draw: st.DrawFn) -> tuple[Hours, datetime, int]:
    """Hours on whole minutes, an instant near them, and minutes of work."""
    window = draw(st.sampled_from(WINDOWS))
    now = draw(st.sampled_from(NEAR)) + draw(st.integers(0, 3 * 1440)) * MINUTE
    minutes = st.integers(-1440, 3 * 1440).map(lambda n: now + n * MINUTE)
    return (
        Hours(
            window=None if window is None else Window.parse(window),
            start_at=draw(st.none() | minutes),
            until=draw(st.none() | minutes),
        ),
        now,
        draw(st.integers(1, 10 * 60)),
    )


@share_of_examples(40)
@example((Hours.parse(window=NIGHTS), at("2026-03-28T20:59"), 8 * 60))
@given(plans())
def test_work_is_over_when_so_many_minutes_have_been_open(
    plan: tuple[Hours, datetime, int],
) -> None:
    hours, now, work = plan
    worked, minute = 0, now
    while worked < work and minute < now + timedelta(days=30):
        worked += hours.shut(minute) is None
        minute += MINUTE
    expected = minute if worked == work else None
    assert hours.finish(now, work * 60.0) == expected
    assert hours.working_seconds(now, minute) == worked * 60.0
