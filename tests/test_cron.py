"""`backfill.cron`: ticks by the wall clocks of the world, daylight saving included."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.cron import Cron
from backfill.errors import UsageError

BERLIN = ZoneInfo("Europe/Berlin")


def ticks(text: str, since: str, count: int, zone: str = "Europe/Berlin") -> list[str]:
    """The next ticks after an instant of UTC, as the zone's wall clock shows them."""
    found = Cron.parse(text, zone).after(datetime.fromisoformat(since).replace(tzinfo=UTC))
    return [f"{tick.astimezone(ZoneInfo(zone)):%m-%d %H:%M%z}" for tick in islice(found, count)]


def test_a_tick_comes_at_the_same_wall_time_in_both_seasons() -> None:
    assert ticks("0 22 * * Mon-Fri", "2026-03-26T21:00", 3) == [
        "03-27 22:00+0100",
        "03-30 22:00+0200",
        "03-31 22:00+0200",
    ]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("30 2 * * *", ["03-29 03:00+0200", "03-30 02:30+0200"]),
        ("0 2,3 * * *", ["03-29 03:00+0200", "03-30 02:00+0200"]),
        ("0 * * * *", ["03-29 00:00+0100", "03-29 01:00+0100", "03-29 03:00+0200"]),
    ],
    ids=["right after the hour that is left out", "once, not twice", "every hour that there is"],
)
def test_in_spring(text: str, shown: list[str]) -> None:
    assert ticks(text, "2026-03-28T22:59", len(shown)) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("30 2 * * *", ["10-25 02:30+0200", "10-26 02:30+0100"]),
        (
            "*/30 2 * * *",
            ["10-25 02:00+0200", "10-25 02:30+0200", "10-25 02:00+0100", "10-25 02:30+0100"],
        ),
        ("0 * * * *", ["10-25 01:00+0200", "10-25 02:00+0200", "10-25 02:00+0100"]),
    ],
    ids=["once, the first time", "twice, for it is no time of day", "every hour that there is"],
)
def test_in_autumn(text: str, shown: list[str]) -> None:
    assert ticks(text, "2026-10-24T22:59", len(shown)) == shown


@pytest.mark.parametrize("minute", range(0, 120, 10))
def test_what_came_in_the_first_fold_does_not_come_again_in_the_second(minute: int) -> None:
    """Whoever asks between the two 02:30s, or after, is told of the next day."""
    asked = datetime(2026, 10, 25, 0, 30, tzinfo=UTC) + timedelta(minutes=minute)
    first = next(Cron.parse("30 2 * * *", "Europe/Berlin").after(asked))
    assert first == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


EXPRESSIONS = ["30 2 * * *", "*/7 * * * *", "0 2,3 * * *", "5 */3 * * *", "0 22 * * Mon-Fri"]


@given(
    st.sampled_from(EXPRESSIONS),
    st.sampled_from([datetime(2026, 3, 28, tzinfo=UTC), datetime(2026, 10, 24, tzinfo=UTC)]),
    st.integers(0, 3 * 86_400),
    st.integers(0, 3 * 86_400),
)
def test_the_newest_tick_is_the_last_of_those_that_came(
    text: str, day: datetime, first: int, more: int
) -> None:
    cron = Cron.parse(text, "Europe/Berlin")
    since, now = day + timedelta(seconds=first), day + timedelta(seconds=first + more)
    came = []
    for tick in cron.after(since - timedelta(microseconds=1)):
        if tick > now:
            break
        came.append(tick)
    assert came == sorted(set(came))
    assert cron.newest(since, now) == (came[-1] if came else None)


@pytest.mark.parametrize("text", ["* * * * *", "0 0 29 2 *"])
def test_the_newest_of_years_is_found_soon(text: str) -> None:
    cron = Cron.parse(text, "Europe/Berlin")
    began = time.process_time()
    assert cron.newest(datetime(2000, 1, 1, tzinfo=UTC), datetime(2026, 3, 1, 12, tzinfo=UTC))
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    ("text", "zone", "reason"),
    [
        ("0 25 * * *", "UTC", '"25" is no hour'),
        ("61 * * * *", "UTC", '"61" is no minute'),
        ("0 22 * * Fun", "UTC", '"Fun" is no day-of-week'),
        ("0 22 32 * *", "UTC", '"32" is no day-of-month'),
        ("0 0 30 2 *", "UTC", '"30" is no day-of-month'),
        ("0 0 1 13 *", "UTC", '"13" is no month'),
        ("0 22 * *", "UTC", "has 4 fields"),
        ("0 0 22 * * *", "UTC", "has 6 fields"),
        ("", "UTC", "has 0 fields"),
        ("@daily", "UTC", "has 1 fields"),
        ("* * */20 * 1L", "UTC", "never comes"),
        ("0 22 * * *", "Europe/Berlim", 'did you mean "Europe/Berlin"?'),
    ],
)
def test_what_is_wrong_is_named(text: str, zone: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        Cron.parse(text, zone)
    assert reason in caught.value.message
    assert caught.value.remedy


@given(
    st.lists(
        st.text(max_size=4)
        | st.text("0123456789*/-,#LW", max_size=6)
        | st.sampled_from(["*", "0", "Mon", "1-5", "*/5", "L", "LW", "1#2", "5L"]),
        max_size=6,
    ).map(" ".join)
)
def test_any_text_is_a_cron_expression_or_a_usage_error(text: str) -> None:
    try:
        cron = Cron.parse(text, "Europe/Berlin")
    except UsageError:
        return
    assert Cron.parse(cron.text, "Europe/Berlin") == cron
