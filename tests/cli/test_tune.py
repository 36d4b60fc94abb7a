"""`tune`, `stop-all`, `start-all`: runs changed and stopped from the command line."""

from __future__ import annotations

import pytest

from backfill.job import Options
from backfill.pg.ledger import events, pauses
from tests.cli.conftest import Shop

AWAY = "redis://127.0.0.1:1/0"


@pytest.fixture
def waiting(celery_shop: Shop) -> Shop:
    """A shop with a run of count_visits that no worker takes."""
    celery_shop.users(500)
    assert celery_shop("enqueue", "count_visits").code == 0
    return celery_shop


def options(shop: Shop) -> Options:
    return Options.from_json(shop.latest("count_visits").options)


def slots(shop: Shop) -> list[int]:
    """Those that a message was sent for."""
    return [row[0] for row in shop.conn.execute("SELECT slot FROM backfill.slot ORDER BY slot")]


# --- tune ----------------------------------------------------------------------------------------


def test_a_run_is_tuned_and_its_new_slots_get_their_messages(waiting: Shop) -> None:
    assert slots(waiting) == [0, 1]
    done = waiting("tune", "--rate", "2000/s", "--concurrency", "4", "--set", "slice_rows=100")
    run = waiting.latest("count_visits")
    assert done.code == 0, done.told
    assert done.stdout.splitlines() == [
        f"{run.id}: concurrency 2 → 4",
        f"{run.id}: rate none → 2000/s",
        f"{run.id}: slice_rows 500 → 100",
    ]
    assert (options(waiting).rate, options(waiting).concurrency) == ("2000/s", 4)
    assert slots(waiting) == [0, 1, 2, 3]
    (event,) = [e for e in events(waiting.conn, waiting.ledger, run.id) if e.name == "run.tuned"]
    assert "@" in event.caused_by


def test_all_short_forms_are_options(waiting: Shop) -> None:
    done = waiting(
        *("tune", "count_visits", "--batch-rows", "auto", "--duty", "0.5"),
        *("--window", "22:00-06:00 Europe/Berlin", "--start-at", "2026-01-01T00:00+00:00"),
        *("--until", "2099-01-01T00:00+00:00"),
    )
    assert done.code == 0, done.told
    tuned = options(waiting)
    assert (tuned.batch_rows, tuned.duty) == ("auto", 0.5)
    assert (tuned.window, tuned.start_at, tuned.until) == (
        "22:00-06:00 Europe/Berlin",
        "2026-01-01T00:00+00:00",
        "2099-01-01T00:00+00:00",
    )


def test_without_redis_it_is_tuned_all_the_same(waiting: Shop) -> None:
    """I4: the reconciler fills the new slots later."""
    waiting.environ["BACKFILL_REDIS_URL"] = AWAY
    done = waiting("tune", "--concurrency", "3")
    assert done.code == 0, done.told
    assert "Redis does not answer" in done.stderr
    assert options(waiting).concurrency == 3


def test_a_run_that_has_ended_is_refused(waiting: Shop) -> None:
    assert waiting("cancel", "--yes").code == 0
    done = waiting("tune", "count_visits", "--rate", "1/s")
    assert done.code == 5
    assert "cancelled" in done.stderr


# --- the red button ------------------------------------------------------------------------------


def test_the_red_button_stops_without_redis_and_status_resume_and_enqueue_say_so(
    waiting: Shop,
) -> None:
    run = waiting.latest("count_visits").id
    waiting.environ["BACKFILL_REDIS_URL"] = AWAY
    done = waiting("stop-all", "--reason", "the sale begins")
    assert done.code == 0, done.told
    assert run in done.stdout
    assert "backfill start-all" in done.stderr
    (pause,) = pauses(waiting.conn, waiting.ledger, run)
    assert "the sale begins" in pause.reason
    listed = waiting("status")
    assert "paused (stop-all)" in listed.stdout
    assert "all runs are stopped: the sale begins" in listed.stderr
    resumed = waiting("resume")
    assert resumed.code == 5
    assert "ends: `backfill start-all`" in resumed.stderr
    enqueued = waiting("enqueue", "lower_email")
    assert "it waits for `backfill start-all`" in enqueued.stderr
    assert waiting.latest("lower_email").state == "paused"
    started = waiting("start-all")
    assert started.code == 0, started.told
    assert "Redis does not answer" in started.stderr
    assert waiting.latest("count_visits").state == waiting.latest("lower_email").state == "queued"


def test_start_all_sends_the_messages_of_what_goes_on(waiting: Shop) -> None:
    waiting("stop-all")
    waiting.conn.execute("DELETE FROM backfill.slot")
    done = waiting("start-all")
    assert done.code == 0, done.told
    assert slots(waiting) == [0, 1]
    assert "nothing was stopped" in waiting("start-all").stdout


def test_start_all_says_which_runs_something_else_pauses(waiting: Shop) -> None:
    run = waiting.latest("count_visits").id
    other = waiting("enqueue", "lower_email").stdout.strip()
    assert waiting("pause", run, "--reason", "the export runs").code == 0
    waiting("stop-all")
    done = waiting("start-all")
    assert done.code == 0, done.told
    assert done.stdout == (
        f"default: {other} is let go on\n"
        f"default: {run} stays paused: something else pauses it, too\n"
    )
    assert f"user: the export runs\nends: `backfill resume {run}`\n" in done.stderr
    assert waiting.latest("count_visits").state == "paused"
    assert waiting.latest("lower_email").state == "queued"


def test_a_database_that_is_away_is_named_and_the_others_are_stopped(waiting: Shop) -> None:
    waiting.environ["AWAY_URL"] = "postgresql://postgres@127.0.0.1:1/nothing"
    waiting.settings(
        'jobs = ["shop_jobs"]\n[databases.away]\nurl_env = "AWAY_URL"\n'
        '[databases.default]\nurl_env = "BACKFILL_DATABASE_URL"\n'
    )
    done = waiting("stop-all")
    assert done.code == 4, done.told
    assert "error: away:" in done.stderr
    assert waiting.latest("count_visits").state == "paused"


def test_a_database_with_confirmation_is_not_stopped_without_one(waiting: Shop) -> None:
    waiting.settings(
        'jobs = ["shop_jobs"]\n[databases.default]\nurl_env = "BACKFILL_DATABASE_URL"\n'
        "confirm = true\n"
    )
    assert waiting("stop-all").code == 5
    assert waiting.latest("count_visits").state == "queued"
    assert waiting("stop-all", "--yes").code == 0
    assert waiting.latest("count_visits").state == "paused"
