"""`backfill.rate`: the text of a rate, read and written."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.errors import ExitCode, UsageError
from backfill.rate import Rate


@pytest.mark.parametrize(
    ("text", "rows_per_second"),
    [
        ("20000/s", 20_000),
        ("1/s", 1),
        ("0.5/s", 0.5),
        ("600/min", 10),
        ("600/m", 10),
        ("7200/h", 2),
        ("1/h", 1 / 3600),
        ("20_000/s", 20_000),
        ("20,000/s", 20_000),
        ("1,234,567/s", 1_234_567),
        ("20k/s", 20_000),
        ("20K/s", 20_000),
        ("1.5M/h", 1_500_000 / 3600),
        ("1M/m", 1_000_000 / 60),
        (" 20000 / s ", 20_000),
        ("0020/s", 20),
    ],
)
def test_a_rate_is_rows_in_a_unit_of_time(text: str, rows_per_second: float) -> None:
    assert Rate.parse(text).rows_per_second == rows_per_second


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "/s",
        "20000",
        "20000/",
        "0/s",
        "0.0k/s",
        "-5/s",
        "+5/s",
        "nan/s",
        "inf/s",
        "1e5/s",
        "9" * 400 + "/s",
        "1/2/s",
        "1.5,000/s",
        "1,5/s",
        "1__000/s",
        "1000_00/s",
        "_100/s",
        ".5/s",
        "5./s",
        "20m/s",
        "20kk/s",
        "5 k/s",
        "5/d",
        "5/S",
        "5/sec",
        "\N{ARABIC-INDIC DIGIT FIVE}/s",
        "1/s\n2/s",
        "0.000001/s",
        "0.001/h",
    ],
)
def test_what_is_no_rate_is_refused_and_the_right_form_shown(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Rate.parse(text)
    assert f'rate "{text}"' in caught.value.message
    assert '"20000/s"' in caught.value.remedy
    assert caught.value.exit_code is ExitCode.USAGE


def test_an_unknown_unit_is_named_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r'"week" is no unit; the units are s, min, m, h'):
        Rate.parse("5/week")


@pytest.mark.parametrize("rows_per_second", [0.0, -1.0, math.nan, math.inf, -math.inf, 1e-300])
def test_an_impossible_number_is_refused_however_the_rate_is_made(rows_per_second: float) -> None:
    with pytest.raises(UsageError, match="at least one row a day"):
        Rate(rows_per_second)


def test_one_row_a_day_is_the_slowest_rate() -> None:
    assert str(Rate(1 / 86_400)).endswith("/s")
    with pytest.raises(UsageError):
        Rate(0.999 / 86_400)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("20k/s", "20000/s"),
        ("60/min", "1/s"),
        ("1200000/min", "20000/s"),
        ("100/m", "100/min"),
        ("1,000/h", "1000/h"),
        ("1.5M/h", "25000/min"),
        ("0.5/s", "30/min"),
    ],
)
def test_the_canonical_text_is_whole_in_the_shortest_unit(text: str, canonical: str) -> None:
    assert str(Rate.parse(text)) == canonical


@given(
    st.floats(min_value=1 / 86_400, allow_infinity=False, allow_nan=False)
    | st.integers(1, 10**7).map(lambda n: n / 3600)
)
def test_the_canonical_text_of_any_rate_reads_back_as_the_same_rate(rows: float) -> None:
    assert Rate.parse(str(Rate(rows))) == Rate(rows)


@given(st.integers(1, 10**12), st.sampled_from(["s", "min", "h"]))
def test_separators_change_nothing(rows: int, unit: str) -> None:
    plain = Rate.parse(f"{rows}/{unit}")
    assert Rate.parse(f"{rows:,}/{unit}") == plain
    assert Rate.parse(f"{rows:_}/{unit}") == plain


@given(st.text() | st.text(alphabet="0123456789.,_kKM/ smh-+einfa", max_size=12))
def test_any_text_is_a_rate_or_a_usage_error(text: str) -> None:
    try:
        rate = Rate.parse(text)
    except UsageError:
        return
    assert 0 < rate.rows_per_second < math.inf
