"""`backfill run` obeys signals as workers do; `status` and `watch` show them with their values."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Command, Shop, until

SETTINGS = """
jobs = ["jobs"]
[engine]
sample_seconds = 0.2
[databases.default]
url_env = "BACKFILL_DATABASE_URL"
[databases.default.signals]
knob = { sql = "SELECT value FROM knob", stop = 10, resume = 5, unit = "turns" }
"""


@pytest.fixture
def knobbed(shop: Shop) -> Shop:
    """A shop whose project has a signal of its own."""
    shop.users(6_000)
    shop.conn.execute("CREATE TABLE knob AS SELECT 1 AS value")
    shop.settings(SETTINGS)
    return shop


def turn(shop: Shop, value: int) -> None:
    shop.conn.execute(b"UPDATE knob SET value = %s", [value])


def state(shop: Shop) -> str:
    return shop.latest("count_visits").state


def begun(shop: Shop) -> Command:
    """A process that works on a run, of which some rows are done."""
    command = shop.start("run", "count_visits", "--rate", "2000/s")
    until(lambda: shop.number("SELECT count(*) FROM backfill.slice"), "a slice")
    return command


def test_a_process_of_its_own_waits_through_a_stop_and_goes_on(knobbed: Shop) -> None:
    command = begun(knobbed)
    turn(knobbed, 42)
    until(lambda: state(knobbed) == "paused", "the knob stops it")
    told = knobbed("status", "count_visits").stdout
    assert "paused (signal)" in told
    assert "paused: signal: knob = 42 turns (stops at 10 turns, goes on below 5 turns)" in told
    assert "ends: by itself when knob is below 5 turns" in told
    (line,) = [line.split() for line in told.splitlines() if line.split()[:1] == ["knob"]]
    assert line[:4] == ["knob", "42", "turns", "stop"]
    assert "replication_lag_seconds" in told, "the others are shown, too"

    turn(knobbed, 1)
    done = command.end()
    assert done.code == 0, done.told
    assert knobbed.number("SELECT count(*) FROM users WHERE visits = 1") == 6_000
    assert "signals" not in knobbed("status", "count_visits").stdout, "it has ended"


def test_a_slowed_run_says_by_what_and_by_how_much(knobbed: Shop) -> None:
    command = begun(knobbed)
    turn(knobbed, 7)
    until(
        lambda: knobbed.number("SELECT count(*) FROM backfill.run WHERE speed < 0.06"), "it slows"
    )
    found = json.loads(knobbed("status", "count_visits", "--json").stdout)
    assert found["limited_by"] == (
        "signal knob = 7 turns (slows from 5 turns, stops at 10 turns): 5 % of full speed"
    )
    assert found["speed"] == 0.05
    (knob,) = [signal for signal in found["signals"] if signal["name"] == "knob"]
    assert {name: knob[name] for name in ("value", "unit", "stop", "resume", "worse", "state")} == {
        "value": 7.0,
        "unit": "turns",
        "stop": 10.0,
        "resume": 5.0,
        "worse": "above",
        "state": "slow",
    }
    listed = knobbed("status").stdout
    assert "running (5 % of full speed)" in listed
    watching = knobbed.start("watch")
    watching.until_told("signal knob = 7 turns")
    turn(knobbed, 1)
    assert command.end().code == 0


def test_a_signal_that_was_asked_for_stops_a_run_that_never_could_read_it(knobbed: Shop) -> None:
    knobbed.conn.execute("ALTER TABLE knob RENAME TO away")
    command = knobbed.start("run", "count_visits", "--rate", "2000/s")
    until(lambda: knobbed.number("SELECT count(*) FROM backfill.run"), "a run")
    until(lambda: state(knobbed) == "paused", "it is stopped")
    assert "knob cannot be read" in knobbed("status", "count_visits").stdout
    knobbed.conn.execute("ALTER TABLE away RENAME TO knob")
    assert command.end().code == 0
