"""`backfill enqueue` and `backfill worker`: real workers on a real Redis."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.cli.conftest import Shop, until


def test_the_id_alone_goes_to_standard_output(celery_shop: Shop) -> None:
    celery_shop.users(10)
    done = celery_shop("enqueue", "lower_email")
    assert done.code == 0
    assert done.stdout == f"{celery_shop.latest('lower_email').id}\n"


def test_without_a_worker_it_says_so_and_what_to_type(celery_shop: Shop) -> None:
    celery_shop.users(10)
    done = celery_shop("enqueue", "lower_email")
    assert "no worker is running: start one with `backfill worker`" in done.stderr
    assert f"backfill watch {celery_shop.latest('lower_email').id}" in done.stderr


def test_warnings_of_the_preflight_are_shown(celery_shop: Shop) -> None:
    celery_shop.users(10)
    assert "CountVisits has no todo" in celery_shop("enqueue", "count_visits").stderr


def test_a_worker_takes_the_run_and_waiting_gives_its_exit_code(celery_shop: Shop) -> None:
    shop = celery_shop
    shop.users(1_000)
    worker = shop.start("worker", "--concurrency", "2", "--name", "shop@%h")
    done = shop("enqueue", "count_visits", "--wait", "--timeout", "60", "--set", "slice_rows=200")
    assert done.code == 0, done.told + worker.stderr
    assert "1,000 paged = 1,000 written" in done.stdout
    assert shop.number("SELECT count(*) FROM users WHERE visits = 1") == 1_000
    assert "no worker is running" not in shop("status").stderr
    worker.send(signal.SIGTERM)
    assert worker.end().code == 0
    assert "batch.committed" in worker.stderr


def test_quarantine_is_an_end_to_whoever_waits(celery_shop: Shop) -> None:
    shop = celery_shop
    shop.users(200, bad=[5])
    worker = shop.start("worker", "--pool", "solo", "--loglevel", "warning")
    done = shop("enqueue", "judge_age", "--wait", "--timeout", "60")
    assert done.code == 6, done.told + worker.stderr
    worker.send(signal.SIGTERM)
    worker.end()


def test_a_wait_that_takes_too_long_gives_exit_code_7_and_leaves_the_run(
    celery_shop: Shop,
) -> None:
    celery_shop.users(10)
    done = celery_shop("enqueue", "lower_email", "--wait", "--timeout", "0.5")
    assert done.code == 7
    assert "backfill watch" in done.stderr
    assert "no worker is running" in done.told
    assert celery_shop.latest("lower_email").state == "queued"


def test_without_an_answer_of_redis_the_run_is_enqueued_and_said_so(shop: Shop) -> None:
    """I4: messages only make it quicker."""
    shop.users(10)
    shop.environ["BACKFILL_REDIS_URL"] = "redis://127.0.0.1:1/0"
    done = shop("enqueue", "lower_email")
    assert done.code == 0, done.told
    assert "Redis does not answer" in done.stderr
    assert shop.latest("lower_email").state == "queued"


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda url: url.replace("redis://", "redis://nobody:hunter2@"), "username-password pair"),
        (lambda url: f"{url.rpartition('/')[0]}/99", "out of range"),
        (lambda url: url.replace("redis://", "rediss://"), "Timeout connecting"),
        (lambda _: "redis://127.0.0.1:1/0", "Connection refused"),
    ],
    ids=["login", "database", "tls", "away"],
)
def test_why_redis_takes_no_message_is_said(
    celery_shop: Shop, spoil: Callable[[str], str], why: str
) -> None:
    celery_shop.users(10)
    celery_shop.environ["BACKFILL_REDIS_URL"] = spoil(celery_shop.environ["BACKFILL_REDIS_URL"])
    done = celery_shop("enqueue", "lower_email")
    assert done.code == 0, done.told
    warnings = [line for line in done.stderr.splitlines() if "Redis does not answer (" in line]
    assert len(warnings) == 1, done.stderr
    assert why in warnings[0]
    assert "hunter2" not in done.told


def test_a_second_live_run_is_refused_and_the_first_named(celery_shop: Shop) -> None:
    """I1."""
    celery_shop.users(10)
    first = celery_shop("enqueue", "lower_email").stdout.strip()
    done = celery_shop("enqueue", "lower_email")
    assert done.code == 5
    assert first in done.stderr


def test_a_worker_passes_on_what_follows_the_dashes_to_celery(celery_shop: Shop) -> None:
    celery_shop.users(10)
    worker = celery_shop.start("worker", "--pool", "solo", "--", "--no-such-celery-option")
    done = worker.end()
    assert done.code == 2
    assert "--no-such-celery-option" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_worker_ends_on_sigterm_whatever_its_pool(celery_shop: Shop, pool: str) -> None:
    shop = celery_shop
    shop.users(3_000)
    worker = shop.start("worker", "--pool", pool, "--loglevel", "warning")
    shop("enqueue", "count_visits", "--rate", "500/s")
    until(lambda: shop.number("SELECT sum(visits) FROM users"), "the first rows")
    worker.send(signal.SIGTERM)
    assert worker.end().code == 0
    held = shop.number("SELECT count(*) FROM backfill.slice WHERE holder IS NOT NULL")
    assert held == 0, "every slice was given back"


def test_a_gentle_run_has_short_batches_and_rests_unless_something_else_is_said(
    celery_shop: Shop,
) -> None:
    celery_shop.users(10)
    assert celery_shop("enqueue", "count_visits", "--gentle", "--set", "duty=0.5").code == 0
    options = celery_shop.latest("count_visits").options
    assert (options["target_batch_seconds"], options["duty"]) == (0.01, 0.5)
