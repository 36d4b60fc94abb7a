"""The text of a window: what it may be, its canonical form, and what wrong text is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.errors import UsageError
from backfill.window import Window
from tests.test_window import DAYS


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("22:00-06:00 Europe/Berlin", "22:00-06:00 Europe/Berlin"),
        ("22:00-06:00", "22:00-06:00 UTC"),
        ("mon-FRI 01:00-05:00 UTC; sat-sun", "Mon-Fri 01:00-05:00 UTC; Sat-Sun UTC"),
        ("  Mon ,Wed   01:00 - 05:00 , 07:00-08:00 ", "Mon,Wed 01:00-05:00,07:00-08:00 UTC"),
        ("Sat-Mon", "Mon,Sat-Sun UTC"),
        ("Mon,Tue,Wed,Fri", "Mon-Wed,Fri UTC"),
        ("Mon-Sun", "Mon-Sun UTC"),
        ("00:00-24:00", "Mon-Sun UTC"),
        ("Mon-Sun 01:00-02:00", "01:00-02:00 UTC"),
        ("22:00-00:00", "22:00-24:00 UTC"),
        ("05:00-06:00,01:00-02:00", "01:00-02:00,05:00-06:00 UTC"),
        ("Mon America/Port-au-Prince", "Mon America/Port-au-Prince"),
        ("NOT 2026-12-24 .. 2026-12-26; Mon", "Mon UTC; not 2026-12-24..2026-12-26 UTC"),
        ("not 2026-12-24..2026-12-24", "not 2026-12-24 UTC"),
    ],
)
def test_the_canonical_text_says_the_same(text: str, canonical: str) -> None:
    window = Window.parse(text)
    assert str(window) == canonical
    assert Window.parse(canonical) == window


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("Mon; Tue", "Mon UTC; Tue UTC"),
        ("Mon Asia/Tokyo; Tue; Wed UTC; Thu", "Mon Asia/Tokyo; Tue Asia/Tokyo; Wed UTC; Thu UTC"),
        ("Mon; Tue; Wed Asia/Tokyo", "Mon Asia/Tokyo; Tue Asia/Tokyo; Wed Asia/Tokyo"),
        ("Mon; Tue Asia/Tokyo; Wed UTC", "Mon Asia/Tokyo; Tue Asia/Tokyo; Wed UTC"),
        ("Mon Asia/Tokyo; not 2027-01-01", "Mon Asia/Tokyo; not 2027-01-01 Asia/Tokyo"),
        ("not 2027-01-01; Mon Asia/Tokyo", "Mon Asia/Tokyo; not 2027-01-01 Asia/Tokyo"),
        ("Mon Asia/Tokyo; not 2027-01-01 UTC", "Mon Asia/Tokyo; not 2027-01-01 UTC"),
    ],
)
def test_an_item_without_a_zone_takes_the_nearest_earlier_else_the_first_later_one(
    text: str, canonical: str
) -> None:
    assert str(Window.parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has neither days nor times"),
        ("Mon;", "has neither days nor times"),
        ("Mon;;Tue", "has neither days nor times"),
        ("UTC", '"UTC" has neither days nor times'),
        ("Monday", '"Monday" is no day; the days are Mon Tue Wed Thu Fri Sat Sun'),
        ("Mon-Fry", '"Fry" is no day'),
        ("Mon,", '"" is no day'),
        ("Mon-", '"" is no day'),
        ("Mon-Wed-Fri", '"Wed-Fri" is no day'),
        ("Mon-Mon", '"Mon-Mon" may mean a day or a week'),
        ("22:00", '"22:00" is no range of times'),
        ("22:00-6:00", '"22:00-6:00" is no range of times'),
        ("22-06", '"22-06" is no range of times'),
        ("22:00-06:00,", '"" is no range of times'),
        ("22:60-06:00", '"22:60-06:00" is not within 00:00-24:00'),
        ("22:00-25:00", '"22:00-25:00" is not within 00:00-24:00'),
        ("22:00-24:01", '"22:00-24:01" is not within 00:00-24:00'),
        ("24:00-06:00", '"24:00-06:00" is not within 00:00-24:00'),
        ("22:00-22:00", '"22:00-22:00" never opens'),
        ("Mon; 00:00-00:00", '"00:00-00:00" never opens'),
        ("Mon Europe/Berlim", '"Europe/Berlim" is no time zone; did you mean "Europe/Berlin"?'),
        ("Mon europe/berlin", '"europe/berlin" is no time zone; did you mean "Europe/Berlin"?'),
        ("Mon +02:00", '"+02:00" is no time zone'),
        ("Mon Europe", '"Europe" is no time zone'),
        ("Mon localtime", '"localtime" is no time zone'),
        ("Mon right/UTC", '"right/UTC" is no time zone'),
        ("Mon ../UTC", '"../UTC" is no time zone'),
        ("Mon /etc/localtime", '"/etc/localtime" is no time zone'),
        ("Mon UTC 22:00-06:00", '"22:00-06:00" is too much; the order is days, times, zone'),
        ("Mon 01:00-02:00 Tue", '"Tue" is no time zone'),
        ("not", '"not" names no date; write "not 2026-12-24..2026-12-26"'),
        ("not Mon", '"not Mon" names no date'),
        ("not 24.12.2026", '"not 24.12.2026" names no date'),
        ("not 2026-12-24...2026-12-26", "names no date"),
        ("not 2026-02-29", '"2026-02-29" is no date of the calendar'),
        ("not 2026-12-26..2026-12-24", '"2026-12-26..2026-12-24" ends before it begins'),
        ("not 9999-12-31", '"9999-12-31" is not within 1900 to 2999'),
        ("not 2026-12-24 Mars/Base", '"Mars/Base" is no time zone'),
        ("not 2026-12-24 UTC 10:00-11:00", '"10:00-11:00" is too much'),
    ],
)
def test_a_wrong_part_is_named_and_the_right_form_shown(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        Window.parse(text)
    assert f'window "{text}"' in caught.value.message
    assert reason in caught.value.message
    assert "22:00-06:00 Europe/Berlin" in caught.value.remedy


@given(
    st.text(max_size=30)
    | st.lists(
        st.sampled_from(
            [
                *DAYS,
                "mon-",
                ",",
                "-",
                ";",
                " ",
                "01:00",
                "22:00-06:00",
                "24:00",
                "UTC",
                "not",
                "2026-12-24",
                "..",
            ]
        )
        | st.text(max_size=3),
        max_size=8,
    ).map("".join)
)
def test_any_text_is_a_window_or_a_usage_error(text: str) -> None:
    try:
        window = Window.parse(text)
    except UsageError:
        return
    assert Window.parse(str(window)) == window
