"""`backfill schedule`: added, listed, told when, removed; and what is told of mistakes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from tests.cli.conftest import Shop

NIGHTS = ("--cron", "0 22 * * Mon-Fri", "--zone", "Europe/Berlin")


def test_a_schedule_is_added_listed_and_removed(shop: Shop) -> None:
    done = shop("schedule", "add", "nightly", "lower_email", *NIGHTS, "-p", "since=5")
    assert done.code == 0, done.told
    assert "nightly: lower_email begins first at " in done.stdout
    assert "22:00+0" in done.stdout
    assert "(Europe/Berlin)" in done.stdout
    listed = shop("schedule", "list").stdout
    assert "0 22 * * Mon-Fri Europe/Berlin" in listed
    assert "lower_email" in listed
    assert shop("schedule", "remove", "nightly").code == 0
    assert "there are no schedules" in shop("schedule", "list").stdout


def test_the_list_for_programs_has_everything(shop: Shop) -> None:
    rules = ("--if-running", "queue", "--if-missed", "run", "--set", "rate=5/s")
    shop("schedule", "add", "nightly", "lower_email", *NIGHTS, "-p", "since=5", *rules)
    (found,) = json.loads(shop("schedule", "list", "--json").stdout)["schedules"]
    assert {name: found[name] for name in ("params", "options", "cron", "zone", "at")} == {
        "params": {"since": 5},
        "options": {"rate": "5/s"},
        "cron": "0 22 * * Mon-Fri",
        "zone": "Europe/Berlin",
        "at": None,
    }
    assert (found["database"], found["if_running"], found["if_missed"]) == (
        "default",
        "queue",
        "run",
    )
    assert datetime.fromisoformat(found["next_at"]) > datetime.now(UTC)
    assert found["last_outcome"] is None


def test_what_became_of_the_last_tick_is_listed_with_its_reason(shop: Shop) -> None:
    shop("schedule", "add", "nightly", "lower_email", *NIGHTS)
    shop.conn.execute(
        "UPDATE backfill.schedule SET last_tick = now(), last_outcome = 'failed',"
        " last_reason = 'there is no table users'"
    )
    assert "failed: there is no table users" in shop("schedule", "list").stdout


def test_the_next_ticks_are_told_in_the_schedules_zone(shop: Shop) -> None:
    once = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    shop("schedule", "add", "nightly", "lower_email", *NIGHTS)
    shop("schedule", "add", "once", "judge_age", "--at", once)
    ticks = json.loads(shop("schedule", "next", "--count", "3", "--json").stdout)["ticks"]
    assert len(ticks) == 3
    assert [tick["at"] for tick in ticks] == sorted(tick["at"] for tick in ticks)
    assert {"schedule": "once", "job": "judge_age", "at": once} in ticks
    shown = shop("schedule", "next", "nightly", "--count", "2").stdout.splitlines()
    assert len(shown) == 3
    assert all("22:00+0" in line and "(Europe/Berlin)" in line for line in shown[1:])
    assert "Sat" not in "".join(shown)


MISTAKES: list[tuple[Sequence[str], int, str]] = [
    (["add", "n", "lower_email"], 2, "either --cron or --at"),
    (["add", "n", "lower_email", *NIGHTS, "--at", "2099-01-01T00:00Z"], 2, "either"),
    (["add", "n", "lower_email", "--at", "2099-01-01T00:00Z", "--zone", "UTC"], 2, "--zone"),
    (["add", "n", "lower_email", "--cron", "0 25 * * *"], 2, '"25" is no hour'),
    (["add", "n", "lower_email", "--cron", "0 22 * *"], 2, "has 4 fields"),
    (["add", "n", "lower_email", "--cron", "0 0 30 2 *"], 2, "day-of-month"),
    (["add", "n", "lower_email", *NIGHTS[:3], "Europe/Berlim"], 2, 'mean "Europe/Berlin"'),
    (["add", "n", "lower_email", "--at", "2099-01-01 22:00"], 2, "time zone"),
    (["add", "n", "lower_email", "--at", "2013-01-01T00:00Z"], 2, "has passed"),
    (["add", "n", "lower_emial", *NIGHTS], 2, "Did you mean lower_email?"),
    (["add", "two words", "lower_email", *NIGHTS], 2, "two words"),
    (["add", "n", "lower_email", *NIGHTS, "-p", "sinse=5"], 2, "Did you mean since?"),
    (["add", "n", "lower_email", *NIGHTS, "--set", "rat=5/s"], 2, "Did you mean rate?"),
    (["add", "n", "geocode", *NIGHTS, "-p", "city=Rome", "-p", "token=x"], 2, "token"),
    (["add", "n", "geocode", *NIGHTS], 2, "city"),
    (["add", "n", "lower_email", *NIGHTS, "--database", "nowhere"], 2, "nowhere"),
    (["add", "n", "lower_email", *NIGHTS, "--if-running", "wait"], 2, "wait"),
    (["add", "taken", "lower_email", *NIGHTS], 5, "there is a schedule taken already"),
    (["remove", "takn"], 2, "Did you mean taken?"),
    (["next", "takn"], 2, "Did you mean taken?"),
    (["next", "--count", "0"], 2, "--count"),
]


def test_each_mistake_is_told_in_one_clear_error(shop: Shop) -> None:
    assert shop("schedule", "add", "taken", "lower_email", *NIGHTS).code == 0
    for arguments, code, told in MISTAKES:
        done = shop("schedule", *arguments)
        assert (done.code, done.stdout) == (code, ""), f"{arguments}: {done.told}"
        assert told in done.stderr, f"{arguments}: {done.stderr}"
        assert "Traceback" not in done.stderr
        assert "hunter2" not in done.told
    assert shop.number("SELECT count(*) FROM backfill.schedule") == 1


def test_a_database_that_wants_a_confirmation_is_asked_for(shop: Shop) -> None:
    shop.settings(
        'jobs = ["jobs"]\n[databases.default]\nurl_env = "BACKFILL_DATABASE_URL"\nconfirm = true\n'
    )
    assert shop("schedule", "add", "nightly", "lower_email", *NIGHTS).code == 5
    assert shop("schedule", "add", "nightly", "lower_email", *NIGHTS, "--yes").code == 0
    assert shop("schedule", "remove", "nightly").code == 5
    assert shop("schedule", "remove", "nightly", "--yes").code == 0


@pytest.mark.parametrize("command", ["list", "next"])
def test_without_a_ledger_it_says_what_to_do(shop: Shop, command: str) -> None:
    shop.conn.execute("DROP SCHEMA backfill CASCADE")
    done = shop("schedule", command)
    assert done.code == 5
    assert "backfill db upgrade" in done.stderr
