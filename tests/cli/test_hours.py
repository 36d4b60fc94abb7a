"""`--start-at` and `--until`: instants, said so that there is only one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.cli.options import assignments, instant
from tests.cli.conftest import Shop, until


def soon(**later: float) -> str:
    return (datetime.now(UTC) + timedelta(**later)).isoformat()


@pytest.mark.parametrize("option", ["--start-at", "--until"])
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("2099-12-01 22:00", 'in UTC "2099-12-01T22:00:00Z"'),
        ("2099-12-01", 'in UTC "2099-12-01T00:00:00Z"'),
        ("tomorrow", "'tomorrow' is no instant; write it like"),
        ("9999-12-31T23:59-14:00", "is no instant"),
        ("2013-01-01T00:00Z", "has passed"),
    ],
)
def test_an_instant_is_refused_with_the_right_form(
    shop: Shop, option: str, text: str, told: str
) -> None:
    done = shop("run", "lower_email", option, text)
    assert done.code == 2
    assert told in done.stderr
    assert option in done.stderr


def test_an_end_before_the_start_is_refused(shop: Shop) -> None:
    start, end = soon(hours=2), soon(hours=1)
    done = shop("enqueue", "lower_email", "--start-at", start, "--until", end)
    assert done.code == 2
    assert "later than start_at" in done.stderr


def test_a_run_here_waits_for_its_start_and_then_works(shop: Shop) -> None:
    shop.users(100)
    start = datetime.now(UTC) + timedelta(seconds=4)
    command = shop.start("run", "lower_email", "--start-at", start.isoformat())
    until(lambda: "it starts at" in command.stdout, "why it waits")
    done = command.end()
    assert done.code == 0, done.told
    started = shop.latest("lower_email").started_at
    assert started is not None
    assert started >= start - timedelta(seconds=1)


def test_a_run_here_ends_when_its_time_is_over_and_says_what_to_type(shop: Shop) -> None:
    """It would wait for ever: nothing opens again after `until`."""
    shop.users(5_000)
    done = shop("run", "lower_email", "--rate", "100/s", "--until", soon(seconds=4))
    assert done.code == 5, done.told
    run = shop.latest("lower_email")
    assert f"`backfill tune {run.id} --until" in done.stdout
    assert run.state == "paused"
    assert 0 < shop.number("SELECT count(email_lower) FROM users") < 5_000


@given(
    st.text(max_size=30)
    | st.datetimes(timezones=st.timezones()).map(str)
    | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}([+-][0-9]{2}:[0-9]{2}|Z)?")
)
def test_any_text_is_an_instant_to_come_or_a_wrong_parameter(text: str) -> None:
    parameter = click.Option(["--until"])
    try:
        taken = instant(click.Context(click.Command("run")), parameter, text)
    except click.BadParameter:
        return
    assert taken is not None
    assert datetime.fromisoformat(taken) > datetime.now(UTC)


@given(st.lists(st.text(max_size=12) | st.just("=")))
def test_any_words_are_assignments_or_a_wrong_parameter(words: list[str]) -> None:
    parameter = click.Option(["--set"])
    try:
        taken = assignments(click.Context(click.Command("run")), parameter, words)
    except click.BadParameter:
        assert any(not word.partition("=")[0].strip() or "=" not in word for word in words)
    else:
        assert [value for _, value in taken] == [word.partition("=")[2] for word in words]
        assert all(name == name.strip() != "" for name, _ in taken)
