"""`backfill schedule`: added, listed, told when, removed; and what is told of mistakes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

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


def test_a_database_that_wants_a_confirmation_is_asked_for(shop: Shop) -> None:
    shop.settings(
        'jobs = ["jobs"]\n[databases.default]\nurl_env = "BACKFILL_DATABASE_URL"\nconfirm = true\n'
    )
    assert shop("schedule", "add", "nightly", "lower_email", *NIGHTS).code == 5
    assert shop("schedule", "add", "nightly", "lower_email", *NIGHTS, "--yes").code == 0
    assert shop("schedule", "remove", "nightly").code == 5
    assert shop("schedule", "remove", "nightly", "--yes").code == 0
