"""`pause`, `resume`, `cancel`, `retry`, `quarantine`: what a person does to a run."""

from __future__ import annotations

import json
import signal

import psycopg
import pytest

from backfill.pg.ledger import events, pauses
from tests.cli.conftest import Shop, until


def causes(shop: Shop, run: str) -> list[str]:
    return [pause.cause for pause in pauses(shop.conn, shop.ledger, run)]


@pytest.fixture
def waiting(celery_shop: Shop) -> Shop:
    """A shop with a run of count_visits that no worker takes."""
    celery_shop.users(500)
    assert celery_shop("enqueue", "count_visits").code == 0
    return celery_shop


# ------------------------------------------------------------------------------ pause and resume


def test_a_pause_says_why_and_what_ends_it(waiting: Shop) -> None:
    """I7."""
    run = waiting.latest("count_visits").id
    done = waiting("pause", "--reason", "the sale begins")
    assert done.code == 0
    assert f"backfill resume {run}" in done.stderr
    pause = pauses(waiting.conn, waiting.ledger, run)[0]
    assert (pause.cause, pause.reason) == ("user", "the sale begins")
    assert "@" in pause.caused_by


def test_a_second_pause_by_a_person_changes_nothing(waiting: Shop) -> None:
    waiting("pause", "--reason", "the first")
    done = waiting("pause", "--reason", "the second")
    assert done.code == 0
    assert "already" in done.stdout
    assert pauses(waiting.conn, waiting.ledger, waiting.latest("count_visits").id)[0].reason == (
        "the first"
    )


def test_resume_lifts_what_a_person_caused(waiting: Shop) -> None:
    waiting("pause")
    done = waiting("resume")
    assert done.code == 0, done.told
    assert waiting.latest("count_visits").state == "queued"
    assert "start one with `backfill worker`" in done.stderr


def test_resume_does_not_lift_quarantine_and_says_what_does(judged: Shop) -> None:
    judged.environ["BACKFILL_REDIS_URL"] = "redis://127.0.0.1:1/0"
    done = judged("resume", "judge_age")
    assert done.code == 6
    assert "backfill quarantine list" in done.stderr
    assert judged.latest("judge_age").state == "paused"


def test_a_local_run_that_stays_paused_stays_its_process_s(judged: Shop) -> None:
    """What is refused has changed nothing: `backfill run` goes on with it."""
    judged.environ["BACKFILL_REDIS_URL"] = "redis://127.0.0.1:1/0"
    done = judged("resume", "judge_age")
    assert (done.code, done.stdout) == (6, "")
    assert judged.latest("judge_age").executor == "local"
    assert judged("run", "judge_age").code == 6


@pytest.mark.parametrize("flags", [[], ["--accept-changes"]], ids=["plain", "accept"])
def test_resume_of_what_runs_is_refused(waiting: Shop, flags: list[str]) -> None:
    before = len(events(waiting.conn, waiting.ledger, waiting.latest("count_visits").id))
    done = waiting("resume", *flags)
    assert done.code == 5
    assert "nothing pauses it" in done.stderr
    after = len(events(waiting.conn, waiting.ledger, waiting.latest("count_visits").id))
    assert after == before


def test_a_change_may_be_accepted_before_it_pauses_the_run(waiting: Shop) -> None:
    change_job(waiting, '"visits + 1"', '"visits + 2"')
    done = waiting("resume", "--accept-changes")
    assert done.code == 0
    assert "has the declaration as it is now" in done.stdout
    assert waiting("resume", "--accept-changes").code == 5


def test_a_pause_for_a_broken_module_has_its_reason_in_one_line(celery_shop: Shop) -> None:
    shop = celery_shop
    shop.users(50)
    shop("enqueue", "count_visits")
    (shop.folder / "jobs" / "shop.py").write_text("class CountVisits(:\n")
    shop.start("worker", "--pool", "solo", "--loglevel", "warning")
    run = shop.latest("count_visits").id
    until(lambda: causes(shop, run) == ["error"], "the pause for the module")
    pause = pauses(shop.conn, shop.ledger, run)[0]
    assert "it may stand in one that cannot: jobs.shop: SyntaxError" in pause.reason
    assert pause.ends == f"Mend it there, or correct the name; then `backfill resume {run}`"
    assert "\n" not in pause.reason


def test_resume_of_a_local_run_while_its_process_works_is_refused(celery_shop: Shop) -> None:
    celery_shop.users(3_000)
    command = celery_shop.start("run", "count_visits", "--rate", "1000/s")
    until(lambda: celery_shop.number("SELECT sum(visits) FROM users"), "the first rows")
    done = celery_shop("resume", "count_visits")
    assert done.code == 5
    assert "Ctrl-C there first" in done.stderr
    assert command.end().code == 0


def test_a_local_run_that_was_interrupted_goes_on_with_workers(celery_shop: Shop) -> None:
    """I1: it changes hands in the middle, and each row is done once."""
    shop = celery_shop
    shop.users(2_000)
    command = shop.start("run", "count_visits", "--rate", "1500/s")
    until(lambda: shop.number("SELECT sum(visits) FROM users"), "the first rows")
    command.send(signal.SIGINT)
    assert command.end().code == 130
    worker = shop.start("worker", "--pool", "solo", "--concurrency", "1", "--loglevel", "warning")
    done = shop("resume", "count_visits")
    assert done.code == 0, done.told
    assert "the workers' now" in done.stdout
    watched = shop("watch", "count_visits")
    assert watched.code == 0, watched.told + worker.stderr
    assert shop.number("SELECT count(*) FROM users WHERE visits = 1") == 2_000
    run = shop.latest("count_visits")
    assert run.executor == "celery"
    assert "run.handed_over" in [e.name for e in events(shop.conn, shop.ledger, run.id)]
    worker.send(signal.SIGTERM)
    assert worker.end().code == 0


def test_without_redis_a_local_run_is_not_handed_over(shop: Shop) -> None:
    shop.users(10)
    assert shop("run", "tells").code == 5
    done = shop("resume", "tells")
    assert done.code == 3
    assert "BACKFILL_REDIS_URL" in done.stderr
    assert "backfill run tells" in done.stderr
    assert shop.latest("tells").executor == "local"
    assert causes(shop, shop.latest("tells").id) == ["error"]


def change_job(shop: Shop, old: str, new: str) -> None:
    path = shop.folder / "jobs" / "shop.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_changed_job_goes_on_only_when_the_change_is_accepted(celery_shop: Shop) -> None:
    shop = celery_shop
    shop.users(50)
    shop("enqueue", "count_visits")
    change_job(shop, '"visits + 1"', '"visits + 2"')
    worker = shop.start("worker", "--pool", "solo", "--loglevel", "warning")
    run = shop.latest("count_visits").id
    until(lambda: causes(shop, run) == ["changed job"], "the pause for the change")
    refused = shop("resume", "count_visits")
    assert refused.code == 5
    assert "--accept-changes" in refused.stderr
    assert causes(shop, run) == ["changed job"]
    accepted = shop("resume", "count_visits", "--accept-changes")
    assert accepted.code == 0, accepted.told
    assert shop("watch", "count_visits").code == 0
    assert shop.number("SELECT count(*) FROM users WHERE visits = 2") == 50
    worker.send(signal.SIGTERM)
    worker.end()


def test_a_change_is_not_accepted_where_the_run_cannot_go_on_anyway(shop: Shop) -> None:
    """What is refused has changed nothing."""
    shop.users(10)
    assert shop("run", "tells").code == 5
    change_job(shop, 'email_lower="lower(email)"', 'email_lower="upper(email)"')
    before = shop.latest("tells").fingerprint
    assert shop("resume", "tells", "--accept-changes").code == 3
    assert shop.latest("tells").fingerprint == before


def test_a_change_of_the_table_cannot_be_accepted(waiting: Shop) -> None:
    """Its slices would mean other rows."""
    run = waiting.latest("count_visits").id
    waiting("pause")
    change_job(waiting, 'source = Table("users")\n    transform = Sql(visits', (
        'source = Table("users", key="email")\n    transform = Sql(visits'
    ))  # fmt: skip
    done = waiting("resume", "--accept-changes")
    assert done.code == 5
    assert "another key" in done.stderr
    assert f"backfill cancel {run}" in done.stderr


def test_a_pause_for_a_change_that_no_run_can_follow_says_to_cancel(celery_shop: Shop) -> None:
    shop = celery_shop
    shop.users(50)
    shop("enqueue", "count_visits")
    change_job(shop, 'source = Table("users")\n    transform = Sql(visits', (
        'source = Table("customers")\n    transform = Sql(visits'
    ))  # fmt: skip
    shop.start("worker", "--pool", "solo", "--loglevel", "warning")
    run = shop.latest("count_visits").id
    until(lambda: causes(shop, run) == ["changed job"], "the pause for the change")
    pause = pauses(shop.conn, shop.ledger, run)[0]
    assert pause.reason.endswith("it has another table")
    assert f"backfill cancel {run}" in pause.ends
    assert "--accept-changes" not in pause.ends
    assert shop("resume", "--accept-changes").code == 5


# ------------------------------------------------------------------------------- cancel and retry


def test_cancel_ends_a_run_for_good(waiting: Shop) -> None:
    done = waiting("cancel", "--reason", "a mistake")
    assert done.code == 0
    assert waiting.latest("count_visits").state == "cancelled"
    again = waiting("cancel", "count_visits")
    assert again.code == 5
    assert "cancelled already" in again.stderr


def test_a_failed_run_is_taken_up_again_where_it_stopped(shop: Shop) -> None:
    shop.users(200)
    shop.settings('jobs = ["jobs"]\n[engine]\nsweep_seconds = 0.3\nbegin_wait_seconds = 0\n')
    with psycopg.connect(shop.url) as other:
        other.execute("SELECT FROM users WHERE id = 50 FOR UPDATE")
        assert shop("run", "lower_email").code == 1
    run = shop.latest("lower_email").id
    done = shop("retry", "lower_email")
    assert done.code == 0, done.told
    assert "backfill run lower_email" in done.stderr
    ended = shop("run", "lower_email")
    assert ended.code == 0, ended.told
    assert f"continuing {run}" in ended.stdout
    assert shop.latest("lower_email").id == run
    assert shop.number("SELECT count(*) FROM users WHERE email_lower IS NULL") == 0


def test_retry_without_a_name_takes_the_one_run_that_has_failed(shop: Shop) -> None:
    shop.users(20)
    none = shop("retry")
    assert (none.code, none.stdout) == (2, "")
    assert "no job's latest run has failed" in none.stderr
    for job in ("lower_email", "lower_email", "judge_age"):
        shop("run", job)
    shop.conn.execute("ALTER TABLE backfill.run DISABLE TRIGGER ALL")
    fail = "UPDATE backfill.run SET state = 'failed', failure = 'x' WHERE job = %s"
    old = shop.latest("lower_email").id
    shop.conn.execute(fail, ["judge_age"])
    shop.conn.execute(f"{fail} AND id <> %s", ["lower_email", old])  # it is not the latest
    done = shop("retry")
    assert done.code == 0, done.told
    assert f"{shop.latest('judge_age').id} is taken up again" in done.stdout
    for job in ("lower_email", "judge_age"):
        shop.conn.execute(fail, [job])
    several = shop("retry")
    assert several.code == 2
    assert all(shop.latest(job).id in several.stderr for job in ("lower_email", "judge_age"))


def test_retry_of_what_has_not_failed_is_refused(waiting: Shop) -> None:
    waiting("pause")
    done = waiting("retry")
    assert done.code == 5
    assert "backfill resume" in done.stderr


# ------------------------------------------------------------------------------------- quarantine


def test_the_quarantine_lists_key_reason_and_what_to_type(judged: Shop) -> None:
    done = judged("quarantine", "list")
    assert done.code == 0
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert sorted(row[0] for row in rows) == ["7", "70"]
    assert all("an age below zero" in line for line in done.stdout.splitlines()[1:])
    assert "quarantine retry" in done.stderr


def test_the_quarantine_in_json_has_keys_as_lists(judged: Shop) -> None:
    found = json.loads(judged("quarantine", "list", "--json").stdout)
    assert found["open"] == 2
    assert sorted(row["key"] for row in found["rows"]) == [["7"], ["70"]]
    assert {row["sqlstate"] for row in found["rows"]} == {None}


def test_mended_rows_are_taken_again_and_the_run_is_finished(judged: Shop) -> None:
    judged.conn.execute("UPDATE users SET age = 40 WHERE age < 0")
    done = judged("quarantine", "retry")
    assert done.code == 0, done.told
    assert "2 rows are taken again" in done.stdout
    assert "backfill run judge_age" in done.stderr
    assert judged("run", "judge_age").code == 0
    assert judged.number("SELECT count(*) FROM users WHERE adult") == 200


def test_rows_that_are_still_bad_come_back_into_quarantine(judged: Shop) -> None:
    judged("quarantine", "retry")
    assert judged("run", "judge_age").code == 6
    assert json.loads(judged("quarantine", "list", "--json").stdout)["open"] == 2


def test_an_accepted_quarantine_brings_a_local_run_to_its_end(judged: Shop) -> None:
    """Nothing is left to do, and no process but this command is there to say so."""
    done = judged("quarantine", "accept")
    assert done.code == 0, done.told
    assert "2 rows stay as they are" in done.stdout
    assert "succeeded" in done.stdout
    assert judged.latest("judge_age").state == "succeeded"
    assert judged.number("SELECT count(*) FROM users WHERE adult IS NULL") == 2
    assert "accepted" in judged("quarantine", "list", "judge_age").stdout


def test_what_was_done_is_told_also_when_the_end_of_the_run_fails(judged: Shop) -> None:
    """The job is gone, and its run cannot be brought to its end here."""
    change_job(judged, "class JudgeAge(Job)", "class JudgeYears(Job)")
    done = judged("quarantine", "accept")
    assert done.code == 2
    assert "2 rows stay as they are" in done.stdout
    assert "error: " in done.stderr
    assert "judge_age" in done.stderr
    assert judged("quarantine", "accept", "judge_age").code == 5


def test_an_accepted_quarantine_brings_a_run_of_workers_to_its_end(celery_shop: Shop) -> None:
    shop = celery_shop
    shop.users(200, bad=[9])
    worker = shop.start("worker", "--pool", "solo", "--loglevel", "warning")
    assert shop("enqueue", "judge_age", "--wait", "--timeout", "30").code == 6, worker.stderr
    assert shop("quarantine", "accept").code == 0
    until(lambda: shop.latest("judge_age").state == "succeeded", "the run's end")
    worker.send(signal.SIGTERM)
    worker.end()


def test_a_run_without_quarantine_has_nothing_to_settle(waiting: Shop) -> None:
    for verb in ("retry", "accept"):
        done = waiting("quarantine", verb)
        assert done.code == 5
        assert "no row" in done.stderr
    assert "no row" in waiting("quarantine", "list").stdout


def test_the_quarantine_of_an_ended_run_is_closed(judged: Shop) -> None:
    judged("cancel", "judge_age")
    done = judged("quarantine", "retry", "judge_age")
    assert done.code == 5
    assert "its quarantine is closed" in done.stderr


def test_a_hook_is_called_also_when_acceptance_ends_the_run(shop: Shop) -> None:
    shop.users(100)
    change_job(shop, "raise OSError", "pass  # raise OSError")
    # the fifth row divides by zero
    change_job(
        shop,
        '"lower(email)")\n    target = Update()\n\n    def after_batch',
        '"lower(email) || 1 / (id - 5)")\n    target = Update()\n\n    def after_batch',
    )
    assert shop("run", "tells").code == 6
    done = shop("quarantine", "accept")
    assert "after_run was called" in done.stdout, done.told
    assert shop.latest("tells").state == "succeeded"
