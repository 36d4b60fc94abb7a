"""What ends commands that only look: Ctrl-C and other signals, in order and with a word."""

from __future__ import annotations

import signal

import pytest

from tests.cli.conftest import Shop, until

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_wait_for_a_run_that_is_ended_says_that_the_run_goes_on(
    celery_shop: Shop, number: signal.Signals
) -> None:
    celery_shop.users(10)
    waiting = celery_shop.start("enqueue", "lower_email", "--wait")
    waiting.until_told("users.email_lower")
    waiting.send(number)
    done = waiting.end()
    run = celery_shop.latest("lower_email")
    assert done.code == CODES[number], done.told
    assert f"the run is left alone; watch it again with `backfill watch {run.id}`" in done.stderr
    assert run.state == "queued"


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("command", ["watch", "events --follow"])
def test_watching_is_ended_by_any_signal_with_a_word(
    judged: Shop, command: str, number: signal.Signals
) -> None:
    judged("quarantine", "retry", "judge_age")
    watching = judged.start(*command.split(), "judge_age")
    watching.until_told("judge_age-" if command == "watch" else "run.paused")
    watching.send(number)
    done = watching.end()
    assert done.code == CODES[number], done.told
    assert "the run is left alone; " in done.stderr
    name, run = command.partition(" ")[0], judged.latest("judge_age").id
    assert f"`backfill {name} {run}" in done.stderr


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_of_a_dry_run_that_is_ended_nothing_stays(shop: Shop, number: signal.Signals) -> None:
    shop.users(10)
    trying = shop.start("dry-run", "stubborn")
    trying_now = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%%'"
    until(lambda: shop.number(trying_now), "the batch that is tried")
    trying.send(number)
    done = trying.end()
    assert done.code == CODES[number], done.told
    assert done.stderr.split("\n")[-2] == (
        "interrupted" if number == signal.SIGINT else f"interrupted by {number.name}"
    )
    assert shop.number("SELECT count(*) FROM users WHERE adult IS NOT NULL") == 0
    until(lambda: not shop.number(trying_now), "the end of its transaction")
