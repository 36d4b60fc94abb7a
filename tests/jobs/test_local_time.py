"""Local times become the instants that PostgreSQL would make of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.rows import TupleRow

from jobs.local_time import instant, local_departure

NEW_YORK = ZoneInfo("America/New_York")

#: Zone, local time, instant in UTC; why it is here.
CHANGES = [
    # an hour skipped, with its edges
    ("America/New_York", "2013-03-10 01:59", "2013-03-10 06:59"),
    ("America/New_York", "2013-03-10 02:00", "2013-03-10 07:00"),
    ("America/New_York", "2013-03-10 02:30", "2013-03-10 07:30"),
    ("America/New_York", "2013-03-10 03:00", "2013-03-10 07:00"),
    # an hour shown twice, with its edges
    ("America/New_York", "2013-11-03 00:59", "2013-11-03 04:59"),
    ("America/New_York", "2013-11-03 01:00", "2013-11-03 06:00"),
    ("America/New_York", "2013-11-03 01:30", "2013-11-03 06:30"),
    ("America/New_York", "2013-11-03 02:00", "2013-11-03 07:00"),
    # east of Greenwich
    ("Europe/Berlin", "2013-03-31 02:30", "2013-03-31 01:30"),
    ("Europe/Berlin", "2013-10-27 02:30", "2013-10-27 01:30"),
    # where the database of zones calls winter the daylight saving time
    ("Europe/Dublin", "2013-03-31 01:30", "2013-03-31 01:30"),
    ("Europe/Dublin", "2013-10-27 01:30", "2013-10-27 01:30"),
    # a change of half an hour
    ("Australia/Lord_Howe", "2013-10-06 02:15", "2013-10-05 15:45"),
    ("Australia/Lord_Howe", "2013-04-07 01:45", "2013-04-06 15:15"),
    # a change from one standard time to another
    ("Europe/Moscow", "2014-10-26 01:30", "2014-10-25 22:30"),
    # at midnight
    ("America/Sao_Paulo", "2013-10-20 00:30", "2013-10-20 03:30"),
    ("America/Sao_Paulo", "2013-02-16 23:30", "2013-02-17 02:30"),
    # a day that was skipped as a whole
    ("Pacific/Apia", "2011-12-30 12:00", "2011-12-30 22:00"),
    # no change at all
    ("America/Phoenix", "2013-03-10 02:30", "2013-03-10 09:30"),
]
#: The years of which every edition of the database of zones tells the same.
FIRST, LAST = datetime.fromisoformat("1995-01-01"), datetime.fromisoformat("2024-12-31")
ZONES = sorted({zone for zone, _, _ in CHANGES} | {"America/St_Johns", "Asia/Kathmandu"})


def postgres_instants(
    conn: psycopg.Connection[TupleRow], locals_: list[datetime], zone: str
) -> list[datetime]:
    """What AT TIME ZONE makes of the times, in their order."""
    rows = conn.execute(
        "SELECT t AT TIME ZONE %s FROM unnest(%s::timestamp[]) WITH ORDINALITY AS u (t, n)"
        " ORDER BY n",
        (zone, locals_),
    )
    return [row[0] for row in rows]


@pytest.mark.parametrize(("zone", "local", "utc"), CHANGES)
def test_a_skipped_hour_takes_the_offset_before_and_a_repeated_one_the_offset_after(
    zone: str, local: str, utc: str
) -> None:
    expected = datetime.fromisoformat(utc).replace(tzinfo=UTC)
    assert instant(datetime.fromisoformat(local), ZoneInfo(zone)) == expected


def test_postgres_has_the_same_rule(conn: psycopg.Connection[TupleRow]) -> None:
    theirs = [
        (zone, local, postgres_instants(conn, [datetime.fromisoformat(local)], zone)[0])
        for zone, local, _ in CHANGES
    ]
    assert theirs == [
        (zone, local, datetime.fromisoformat(utc).replace(tzinfo=UTC))
        for zone, local, utc in CHANGES
    ]


def near_a_change() -> st.SearchStrategy[datetime]:
    """Local times within a day of a change of some zone, also of zones that do not change then."""
    changes = [datetime.fromisoformat(local) for _, local, _ in CHANGES]
    return st.builds(
        lambda change, minutes: change + timedelta(minutes=minutes),
        st.sampled_from(changes),
        st.integers(-24 * 60, 24 * 60),
    )


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    zone=st.sampled_from(ZONES),
    locals_=st.lists(
        near_a_change() | st.datetimes(FIRST, LAST),
        min_size=1,
        max_size=200,
    ),
)
def test_python_and_postgres_agree_on_every_local_time(
    conn: psycopg.Connection[TupleRow], zone: str, locals_: list[datetime]
) -> None:
    ours = [instant(local, ZoneInfo(zone)) for local in locals_]
    assert ours == postgres_instants(conn, locals_, zone)


def test_the_fold_of_the_argument_changes_nothing() -> None:
    local = datetime.fromisoformat("2013-11-03 01:30")
    assert instant(local.replace(fold=1), NEW_YORK) == instant(local, NEW_YORK)


def test_the_instant_is_told_in_utc() -> None:
    assert instant(FIRST, NEW_YORK).tzinfo is UTC


def test_2400_is_the_midnight_that_ends_the_day() -> None:
    assert local_departure(2013, 12, 31, 2400, NEW_YORK) == local_departure(2014, 1, 1, 0, NEW_YORK)


def test_a_day_with_a_change_counts_by_the_clock_and_not_by_hours_passed() -> None:
    """Eight o'clock is eight o'clock, though only seven hours have passed since midnight."""
    departure = local_departure(2013, 3, 10, 800, NEW_YORK)
    assert departure.astimezone(NEW_YORK).hour == 8
    assert departure - local_departure(2013, 3, 10, 0, NEW_YORK) == timedelta(hours=7)


@given(st.integers(-32768, 32767))
def test_a_number_is_a_time_when_a_clock_shows_it_and_refused_when_not(hhmm: int) -> None:
    shown = {hours * 100 + minutes for hours in range(24) for minutes in range(60)} | {2400}
    if hhmm in shown:
        midnight = local_departure(2013, 7, 1, 0, NEW_YORK)
        passed = timedelta(hours=hhmm // 100, minutes=hhmm % 100)
        assert local_departure(2013, 7, 1, hhmm, NEW_YORK) - midnight == passed
    else:
        with pytest.raises(ValueError, match="no clock shows"):
            local_departure(2013, 7, 1, hhmm, NEW_YORK)


def test_a_day_that_no_calendar_has_is_refused() -> None:
    with pytest.raises(ValueError, match="day"):
        local_departure(2013, 2, 29, 600, NEW_YORK)
