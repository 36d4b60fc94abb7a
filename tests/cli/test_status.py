"""`backfill status`, `watch` and `events`: what a run does, and why."""

from __future__ import annotations

import json
import signal

import pytest

from tests.cli.conftest import Shop, until


def test_without_runs_status_says_where_to_begin(shop: Shop) -> None:
    done = shop("status")
    assert done.code == 0
    assert "there are no runs" in done.stdout
    assert "backfill list" in done.stdout


def test_status_lists_the_runs_with_state_and_cause(judged: Shop) -> None:
    judged("run", "lower_email")
    lines = judged("status").stdout.splitlines()
    assert "judge_age-" in lines[1], "live runs first"
    assert "paused (quarantine)" in lines[1]
    assert "succeeded" in lines[2]
    assert "100 %" in lines[2]


def test_one_run_is_shown_with_counts_that_add_up(judged: Shop) -> None:
    """I2, and I7: the pause names its reason and what ends it."""
    told = judged("status", "judge_age").stdout
    assert "200 paged = 198 written + 2 quarantined" in told
    assert "quarantine: 2 rows" in told
    assert "backfill quarantine accept" in told
    assert "2 rows waiting" in told


@pytest.mark.parametrize("form", ["id", "prefix", "job"])
def test_a_run_is_found_by_its_id_a_unique_prefix_or_its_job(judged: Shop, form: str) -> None:
    run = judged.latest("judge_age").id
    text = {"id": run, "prefix": run[:-2], "job": "judge_age"}[form]
    assert judged("status", text).stdout.startswith(f"{run}  paused")


def test_json_of_a_run_is_complete_and_adds_up(judged: Shop) -> None:
    found = json.loads(judged("status", "judge_age", "--json").stdout)
    counts = found["counts"]
    assert counts["paged"] == sum(n for name, n in counts.items() if name != "paged") == 200
    assert found["state"] == "paused"
    assert found["quarantine"] == {"open": 2, "all": 2}
    assert found["pauses"][0]["cause"] == "quarantine"
    assert {"run", "job", "label", "share", "slices", "workers", "limited_by"} <= set(found)
    listed = json.loads(judged("status", "--json").stdout)
    assert [run["run"] for run in listed["runs"]] == [found["run"]]


def test_a_run_that_waits_for_workers_says_what_to_type(celery_shop: Shop) -> None:
    celery_shop.users(10)
    celery_shop("enqueue", "lower_email")
    assert "start one with `backfill worker`" in celery_shop("status").stderr
    assert "start one with `backfill worker`" in celery_shop("status", "lower_email").stdout


def test_watch_of_a_run_that_has_ended_returns_its_exit_code(judged: Shop) -> None:
    assert judged("watch", "judge_age").code == 6
    judged("run", "lower_email")
    done = judged("watch", "lower_email")
    assert done.code == 0
    assert "succeeded" in done.stdout


def test_watch_shows_a_run_until_it_ends(shop: Shop) -> None:
    shop.users(3_000)
    # slow enough for `watch` to come in time on a busy machine, too
    worked = shop.start("run", "count_visits", "--rate", "400/s")
    until(lambda: shop.number("SELECT count(*) FROM backfill.slice"), "a slice")
    watched = shop("watch")
    assert watched.code == 0, watched.told
    assert "users.visits" in watched.stdout
    assert "3,000 paged = 3,000 written" in watched.stdout
    assert worked.end().code == 0


def test_ctrl_c_in_watch_leaves_the_run_alone(shop: Shop) -> None:
    shop.users(3_000)
    # slow enough for `watch` to come in time on a busy machine, too
    worked = shop.start("run", "count_visits", "--rate", "400/s")
    until(lambda: shop.number("SELECT count(*) FROM backfill.slice"), "a slice")
    watching = shop.start("watch", "count_visits")
    watching.until_told("users.visits")
    watching.send(signal.SIGINT)
    done = watching.end()
    assert done.code == 130
    assert "the run is left alone" in done.stderr
    assert worked.end().code == 0


def test_watch_in_json_gives_one_object_a_line(judged: Shop) -> None:
    done = judged("watch", "judge_age", "--json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["state"] for line in lines] == ["paused"]


def test_events_tell_who_did_what_and_why(judged: Shop) -> None:
    """I7."""
    judged("cancel", "judge_age", "--reason", "not needed any more")
    done = judged("events", "judge_age")
    names = [line.split()[2] for line in done.stdout.splitlines()]
    assert names[0] == "run.enqueued"
    assert names[-1] == "run.cancelled"
    assert {"run.begun", "run.sweeping", "run.verifying", "run.paused"} <= set(names)
    assert "reason=not needed any more" in done.stdout
    assert all(" by " in line for line in done.stdout.splitlines())


def test_events_in_json_are_one_object_a_line_in_their_order(judged: Shop) -> None:
    lines = [json.loads(x) for x in judged("events", "judge_age", "--json").stdout.splitlines()]
    assert all(set(x) == {"id", "run", "at", "name", "caused_by", "detail"} for x in lines)
    assert [x["id"] for x in lines] == sorted(x["id"] for x in lines)


def test_events_can_be_followed_until_the_run_ends(judged: Shop) -> None:
    following = judged.start("events", "judge_age", "--follow")
    following.until_told("run.paused")
    judged("cancel", "judge_age")
    done = following.end()
    assert done.code == 0
    assert "run.cancelled" in done.stdout.splitlines()[-1]


def test_following_can_be_left_by_ctrl_c(judged: Shop) -> None:
    following = judged.start("events", "judge_age", "--follow")
    following.until_told("run.paused")
    following.send(signal.SIGINT)
    assert following.end().code == 130


def test_nothing_is_meant_when_no_run_is_live(shop: Shop) -> None:
    shop.users(10)
    shop("run", "lower_email")
    done = shop("watch")
    assert done.code == 2
    assert "no run is live" in done.stderr


def test_a_name_is_asked_for_when_several_runs_are_live(judged: Shop) -> None:
    assert judged("run", "tells").code == 5
    done = judged("pause")
    assert done.code == 2
    assert "2 runs fit" in done.stderr
    assert judged.latest("tells").id in done.stderr


def test_runs_of_two_databases_are_told_apart(judged: Shop) -> None:
    """A cancel without a name must not meet a run of another database by chance."""
    name = judged.number("SELECT 1")  # the connection is there
    assert name == 1
    other = judged.url
    judged.settings(
        'jobs = ["jobs"]\n'
        '[databases.one]\nurl_env = "BACKFILL_DATABASE_URL"\n'
        '[databases.two]\nurl_env = "OTHER_URL"\n'
    )
    # the same server twice: every run is found in both
    done = judged("status", "judge_age", OTHER_URL=other)
    assert done.code == 2
    assert "database one" in done.stderr
    assert "database two" in done.stderr
    assert judged("status", "judge_age", "--database", "two", OTHER_URL=other).code == 0
    assert judged("cancel", "--yes", OTHER_URL=other).code == 2
