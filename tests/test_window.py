"""`backfill.window`: when a run may work, by the wall clocks of the world.

The behaviour is compared with a reference that looks at every minute by itself.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backfill.window import Window
from tests.profiles import share_of_examples

BERLIN = ZoneInfo("Europe/Berlin")
APIA = ZoneInfo("Pacific/Apia")
MINUTE = timedelta(minutes=1)
DAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]

#: A zone, and instants just before something odd happens in it.
ODD = {
    "Europe/Berlin": ["2026-03-28T12:00", "2026-10-24T12:00"],
    "America/New_York": ["2026-03-07T20:00", "2026-10-31T20:00"],
    "Australia/Lord_Howe": ["2026-04-04T00:00", "2026-10-03T00:00"],  # by half an hour
    "Pacific/Apia": ["2011-12-29T00:00", "2011-09-23T12:00"],  # a day that does not exist
    "Africa/Casablanca": ["2026-02-14T12:00", "2026-03-21T12:00"],  # Ramadan
    "Asia/Kathmandu": ["2026-01-01T00:00"],  # 5:45 from UTC
    "America/St_Johns": ["2006-10-28T12:00"],  # at one minute past midnight
    "UTC": ["2026-12-31T12:00"],
}


def at(text: str, zone: ZoneInfo | None = None, *, fold: int = 0) -> datetime:
    """The instant that a wall clock (of UTC when no zone is given) shows as `text`."""
    return datetime.fromisoformat(text).replace(tzinfo=zone or UTC, fold=fold)


# ----------------------------------------------------------------------------- plain behaviour


@pytest.mark.parametrize(
    ("text", "wall", "is_open"),
    [
        ("22:00-06:00 Europe/Berlin", "2026-06-01T21:59:59.999999", False),
        ("22:00-06:00 Europe/Berlin", "2026-06-01T22:00", True),
        ("22:00-06:00 Europe/Berlin", "2026-06-02T00:00", True),
        ("22:00-06:00 Europe/Berlin", "2026-06-02T05:59:59.999999", True),
        ("22:00-06:00 Europe/Berlin", "2026-06-02T06:00", False),
        # 2026-06-05 is a Friday
        ("Fri 22:00-06:00 Europe/Berlin", "2026-06-05T05:00", False),
        ("Fri 22:00-06:00 Europe/Berlin", "2026-06-06T05:00", True),
        ("Fri 22:00-06:00 Europe/Berlin", "2026-06-06T22:00", False),
        ("Sun 22:00-06:00 Europe/Berlin", "2026-06-08T05:00", True),
        ("Sat-Sun Europe/Berlin", "2026-06-05T23:59:59", False),
        ("Sat-Sun Europe/Berlin", "2026-06-06T00:00", True),
        ("Sat-Sun Europe/Berlin", "2026-06-07T23:59:59", True),
        ("Sat-Sun Europe/Berlin", "2026-06-08T00:00", False),
        ("Sat-Mon Europe/Berlin", "2026-06-08T12:00", True),
        ("Sat-Mon Europe/Berlin", "2026-06-09T12:00", False),
        ("Mon,Wed Europe/Berlin", "2026-06-02T12:00", False),
        ("Mon,Wed Europe/Berlin", "2026-06-03T12:00", True),
        ("18:00-24:00 Europe/Berlin", "2026-06-03T23:59:59", True),
        ("18:00-24:00 Europe/Berlin", "2026-06-04T00:00", False),
        ("01:00-02:00,05:00-06:00 Europe/Berlin", "2026-06-04T03:00", False),
        ("01:00-02:00,05:00-06:00 Europe/Berlin", "2026-06-04T05:00", True),
        ("Mon 01:00-02:00; Thu 03:00-04:00 Europe/Berlin", "2026-06-04T03:30", True),
    ],
)
def test_an_instant_is_inside_when_its_wall_time_is(text: str, wall: str, is_open: bool) -> None:
    assert Window.parse(text).is_open(at(wall, BERLIN)) is is_open


def test_the_next_opening_is_now_when_the_window_is_open() -> None:
    now = at("2026-06-01T23:00:00.25", BERLIN)
    assert Window.parse("22:00-06:00 Europe/Berlin").next_open(now) is now


def test_the_next_opening_and_the_end_are_exact() -> None:
    window = Window.parse("22:00-06:00 Europe/Berlin")
    assert window.next_open(at("2026-06-01T12:34:56.789")) == at("2026-06-01T22:00", BERLIN)
    assert window.next_close(at("2026-06-01T22:34:56.789")) == at("2026-06-02T06:00", BERLIN)


def test_the_end_asked_for_while_closed_is_that_of_the_next_opening() -> None:
    window = Window.parse("Sat 01:00-02:00")
    assert window.next_close(at("2026-06-01T00:00")) == at("2026-06-06T02:00")


def test_at_its_end_a_window_is_closed_and_the_next_end_is_another() -> None:
    window = Window.parse("01:00-02:00")
    end = at("2026-06-01T02:00")
    assert not window.is_open(end)
    assert window.next_open(end) == at("2026-06-02T01:00")
    assert window.next_close(end) == at("2026-06-02T02:00")


def test_items_that_touch_or_overlap_are_one_opening() -> None:
    window = Window.parse("Fri 20:00-24:00; Sat 00:00-04:00, 03:00-05:00 UTC")
    assert window.next_close(at("2026-06-05T21:00")) == at("2026-06-06T05:00")


def test_answers_are_in_utc() -> None:
    window = Window.parse("22:00-06:00 Europe/Berlin")
    now = at("2026-06-01T12:00", BERLIN)
    close = window.next_close(now)
    assert window.next_open(now).tzinfo is UTC
    assert close is not None
    assert close.tzinfo is UTC


@pytest.mark.parametrize(
    "text", ["Mon-Sun", "00:00-24:00 Asia/Tokyo", "12:00-24:00; 00:00-12:00", "Mon-Thu; Fri-Sun"]
)
def test_a_window_that_is_always_open_never_closes(text: str) -> None:
    window = Window.parse(text)
    now = at("2026-03-29T00:30")
    assert window.next_open(now) is now
    assert window.next_close(now) is None


def test_items_of_two_zones_may_leave_no_gap_in_any_season() -> None:
    together = Window.parse("00:00-13:00 UTC; 13:00-01:00 Europe/London")
    assert together.next_close(at("2026-01-01T00:00")) is None


def test_items_of_two_zones_may_leave_a_gap_in_one_season_only() -> None:
    winter = Window.parse("00:00-12:00 UTC; 12:00-24:00 Europe/London")
    assert winter.next_close(at("2026-01-01T00:00")) == at("2026-03-29T23:00")


def test_the_answers_take_little_time_however_far_away_the_end_is() -> None:
    window = Window.parse("00:00-13:00 UTC; 13:00-01:00 Europe/London; Sat 01:00-02:00 Asia/Tokyo")
    began = time.process_time()
    window.next_close(at("2026-01-01T00:00"))
    assert time.process_time() - began < 1


def test_boundaries_are_exact_to_the_second_where_the_zone_is() -> None:
    window = Window.parse("10:00-11:00 Europe/Berlin")  # until 1893 53 minutes 28 s before UTC
    assert window.next_open(at("1890-06-01T09:06:10.5")) == at("1890-06-01T09:06:32")
    assert window.next_close(at("1890-06-01T10:06:31.5")) == at("1890-06-01T10:06:32")
    assert window.next_open(at("1890-06-01T10:06:32")) == at("1890-06-02T09:06:32")


@pytest.mark.parametrize("name", ["is_open", "next_open", "next_close"])
def test_a_naive_instant_is_refused(name: str) -> None:
    ask: Callable[[datetime], object] = getattr(Window.parse("Mon"), name)
    with pytest.raises(ValueError, match="aware"):
        ask(datetime(2026, 1, 1))  # noqa: DTZ001 - the mistake itself


# ------------------------------------------------------------------------------ daylight saving


@pytest.mark.parametrize(
    ("day", "hours"),
    [("2026-03-28", 7), ("2026-10-24", 9), ("2026-06-01", 8)],
    ids=["spring", "autumn", "any other"],
)
def test_a_night_is_as_long_as_the_wall_clocks_say(day: str, hours: int) -> None:
    window = Window.parse("22:00-06:00 Europe/Berlin")
    opens = window.next_open(at(f"{day}T12:00", BERLIN))
    closes = window.next_close(opens)
    assert closes is not None
    assert closes - opens == timedelta(hours=hours)


def test_an_hour_that_spring_leaves_out_does_not_open() -> None:
    window = Window.parse("02:00-03:00 Europe/Berlin")
    assert window.next_open(at("2026-03-29T00:00", BERLIN)) == at("2026-03-30T02:00", BERLIN)


def test_a_start_in_the_hour_that_spring_leaves_out_is_its_end() -> None:
    window = Window.parse("02:30-04:00 Europe/Berlin")
    assert window.next_open(at("2026-03-29T00:00", BERLIN)) == at("2026-03-29T01:00")


def test_half_of_the_hour_that_autumn_repeats_opens_twice() -> None:
    window = Window.parse("02:30-03:00 Europe/Berlin")
    # summer's 02:30 to 03:00, which is winter's 02:00, then winter's 02:30 to 03:00
    first = window.next_open(at("2026-10-24T22:00"))
    assert first == at("2026-10-25T00:30")
    assert window.next_close(first) == at("2026-10-25T01:00")
    assert window.next_open(at("2026-10-25T01:00")) == at("2026-10-25T01:30")
    assert window.next_close(at("2026-10-25T01:30")) == at("2026-10-25T02:00")


def test_an_instant_is_taken_as_the_instant_that_it_is_in_its_own_fold() -> None:
    window = Window.parse("00:00-01:00 UTC")  # 02:00 to 03:00 of the first fold
    assert window.is_open(at("2026-10-25T02:30", BERLIN, fold=0))
    assert not window.is_open(at("2026-10-25T02:30", BERLIN, fold=1))


def test_a_day_that_does_not_exist_is_skipped_until_next_week() -> None:
    window = Window.parse("Fri 10:00-11:00 Pacific/Apia")
    assert window.next_open(at("2011-12-29T12:00", APIA)) == at("2012-01-06T10:00", APIA)


# ---------------------------------------------------------------------------------- black-outs

CHRISTMAS = "22:00-06:00 Europe/Berlin; not 2026-12-24..2026-12-26; not 2027-01-01"


@pytest.mark.parametrize(
    ("wall", "is_open"),
    [
        ("2026-12-23T23:59:59", True),
        ("2026-12-24T00:00", False),  # the night before is cut at midnight
        ("2026-12-24T23:00", False),
        ("2026-12-26T23:59:59", False),
        ("2026-12-27T00:00", True),  # so is the night that begins on the last day
        ("2026-12-31T23:59:59", True),
        ("2027-01-01T23:59:59", False),
        ("2027-01-02T00:00", True),
    ],
)
def test_a_black_out_wins_over_every_item(wall: str, is_open: bool) -> None:
    assert Window.parse(CHRISTMAS).is_open(at(wall, BERLIN)) is is_open


def test_openings_are_cut_at_the_midnights_of_a_black_out() -> None:
    window = Window.parse(CHRISTMAS)
    assert window.next_close(at("2026-12-23T22:30", BERLIN)) == at("2026-12-24T00:00", BERLIN)
    assert window.next_open(at("2026-12-24T00:00", BERLIN)) == at("2026-12-27T00:00", BERLIN)
    assert window.next_close(at("2026-12-25T00:00", BERLIN)) == at("2026-12-27T06:00", BERLIN)


def test_a_black_out_may_have_a_zone_of_its_own() -> None:
    window = Window.parse("Mon-Sun UTC; not 2026-12-24 Asia/Tokyo")
    assert window.next_close(at("2026-12-01T00:00")) == at("2026-12-23T15:00")
    assert window.next_open(at("2026-12-23T15:00")) == at("2026-12-24T15:00")


def test_black_outs_alone_leave_everything_else_open() -> None:
    window = Window.parse("not 2026-12-24..2026-12-26")
    now = at("2026-06-01T00:00")
    assert window.next_open(now) is now
    assert window.next_close(now) == at("2026-12-24T00:00")
    assert window.next_open(at("2026-12-24T00:00")) == at("2026-12-27T00:00")
    assert window.next_close(at("2026-12-27T00:00")) is None


def test_a_black_out_of_a_day_that_does_not_exist_closes_nothing() -> None:
    assert Window.parse("not 2011-12-30 Pacific/Apia").next_close(at("2011-01-01T00:00")) is None


def test_a_black_out_that_is_years_away_is_found() -> None:
    window = Window.parse("00:00-13:00 UTC; 13:00-01:00 Europe/London; not 2031-05-01")
    assert window.next_close(at("2026-01-01T00:00")) == at(
        "2031-05-01T00:00", ZoneInfo("Europe/London")
    )


def test_where_all_is_blacked_out_for_long_the_next_opening_is_found_soon() -> None:
    window = Window.parse("Mon-Sun; not 2000-01-01..2400-12-31; not 2401-01-01..2999-12-31")
    began = time.process_time()
    assert window.next_open(at("2026-01-01T00:00")) == at("3000-01-01T00:00")
    assert window.next_close(at("2026-01-01T00:00")) is None
    assert time.process_time() - began < 1


def test_an_opening_after_a_long_black_out_ends_where_it_does() -> None:
    window = Window.parse("Sat 22:00-06:00; not 2026-01-01..2028-12-31")
    assert window.next_open(at("2026-01-01T00:00")) == at("2029-01-06T22:00")
    assert window.next_close(at("2026-01-01T00:00")) == at("2029-01-07T06:00")


# -------------------------------------------------------------------------------- the reference


_day = st.sampled_from(DAYS)
_days = st.lists(
    _day | st.tuples(_day, _day).filter(lambda d: d[0] != d[1]).map("-".join),
    min_size=1,
    max_size=3,
).map(",".join)
_minute = st.integers(0, 1439) | st.sampled_from([0, 60, 119, 120, 121, 150, 180, 1439])
_end = _minute | st.just(1440)
_times = st.lists(
    st.tuples(_minute, _end).filter(lambda t: t[0] != t[1]), min_size=1, max_size=3
).map(lambda times: ",".join(f"{clock(start)}-{clock(end)}" for start, end in times))
_item = st.tuples(_days, _times) | st.tuples(_days, st.just("")) | st.tuples(st.just(""), _times)


def clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


Parts = list[tuple[str, str, str]]


@st.composite
def odd_moments(draw: st.DrawFn) -> tuple[Parts, datetime]:
    """Items with their zones, and an instant near something odd in one of the zones.

    A black-out is ("not", its dates, its zone); at least one item is none.
    """
    zones = draw(st.lists(st.sampled_from(sorted(ODD)), min_size=1, max_size=2, unique=True))
    items = [(*draw(_item), draw(st.sampled_from(zones))) for _ in range(draw(st.integers(1, 3)))]
    near = datetime.fromisoformat(draw(st.sampled_from(ODD[zones[0]]))).replace(tzinfo=UTC)
    for _ in range(draw(st.integers(0, 2))):
        first = near.date() + timedelta(days=draw(st.integers(-1, 4)))
        last = first + timedelta(days=draw(st.integers(0, 2)))
        dates = str(first) if first == last else f"{first}..{last}"
        place = draw(st.integers(0, len(items)))
        items.insert(place, ("not", dates, draw(st.sampled_from(zones))))
    return items, near + timedelta(seconds=draw(st.integers(0, 2 * 86_400)))


def reference_is_open(parts: Parts, instant: datetime) -> bool:
    """Whether some item's day and times hold the wall time; clear, not fast."""
    items = [part for part in parts if part[0] != "not"]
    for _, dates, zone in [part for part in parts if part[0] == "not"]:
        first, _, last = dates.partition("..")
        if first <= str(instant.astimezone(ZoneInfo(zone)).date()) <= (last or first):
            return False
    for days, times, zone in items:
        wall = instant.astimezone(ZoneInfo(zone))
        minute = wall.hour * 60 + wall.minute
        today, yesterday = wall.weekday(), (wall.weekday() - 1) % 7
        named = set()
        for piece in (days or "Mon-Sun").split(","):
            first, _, last = piece.partition("-")
            n = DAYS.index(first)
            named.add(n)
            while last and DAYS[n] != last:
                n = (n + 1) % 7
                named.add(n)
        for piece in (times or "00:00-24:00").split(","):
            start, end = (int(text[:2]) * 60 + int(text[3:]) for text in piece.split("-"))
            if start < end and today in named and start <= minute < end:
                return True
            if start > end and (
                (today in named and minute >= start) or (yesterday in named and minute < end)
            ):
                return True
    return False


@share_of_examples(40)
@example(([("Fri", "", "Pacific/Apia")], datetime(2011, 12, 29, 12, tzinfo=UTC)))
@example(([("", "02:00-02:30", "Australia/Lord_Howe")], datetime(2026, 10, 3, tzinfo=UTC)))
@example(
    (  # the clock goes back over midnight, so the blacked-out day comes twice
        [("", "20:00-04:00", "America/St_Johns"), ("not", "2006-10-28", "America/St_Johns")],
        datetime(2006, 10, 28, 1, tzinfo=UTC),
    )
)
@given(odd_moments())
def test_a_window_is_what_every_minutes_wall_clock_says(
    moment: tuple[Parts, datetime],
) -> None:
    items, now = moment
    window = Window.parse("; ".join(" ".join(filter(None, item)) for item in items))
    assert window.is_open(now) is reference_is_open(items, now)

    # minute by minute (all these zones change on whole minutes): the first opening, its end
    opens, closes = None, None
    minute = now
    while closes is None and minute < now + timedelta(days=24):
        is_open = reference_is_open(items, minute)
        if opens is None and is_open:
            opens = minute
        elif opens is not None and not is_open:
            closes = minute
        minute = minute.replace(second=0) + MINUTE

    assert opens is not None
    assert window.next_open(now) == opens
    if closes is None:
        end = window.next_close(now)
        assert end is None or end >= minute
    else:
        assert window.next_close(now) == closes


@given(odd_moments())
def test_the_canonical_text_of_any_window_parses_to_an_equal_one(
    moment: tuple[Parts, datetime],
) -> None:
    window = Window.parse("; ".join(" ".join(filter(None, item)) for item in moment[0]))
    assert Window.parse(str(window)) == window
    assert hash(Window.parse(str(window))) == hash(window)
    assert str(Window.parse(str(window))) == str(window)


def test_a_window_is_a_value() -> None:
    window = Window.parse("Mon 01:00-02:00")
    with pytest.raises(FrozenInstanceError):
        window.items = ()  # type: ignore[misc]
    copy = pickle.loads(pickle.dumps(window))
    assert copy == window
    assert copy.is_open(at("2026-06-01T01:30"))
