"""People are told of what `backfill run` does; `backfill notify test` tries a channel."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from click.testing import Result

from tests.cli.conftest import Shop, until
from tests.watch.receiver import SECRET, Receiver, heard, program

OPS = 'jobs = ["jobs"]\n[notify.ops]\nwebhook_url_env = "HOOK"\n'


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver().serving() as receiver:
        yield receiver


@pytest.fixture
def told(shop: Shop, receiver: Receiver) -> Shop:
    """A shop that tells the receiver."""
    shop.settings(OPS)
    shop.environ["HOOK"] = receiver.url
    return shop


def headlines(receiver: Receiver) -> list[str]:
    return [text.splitlines()[0].partition(" ")[2] for text in receiver.texts]


def test_a_process_of_its_own_has_told_of_its_run_when_it_ends(
    told: Shop, receiver: Receiver
) -> None:
    told.users(200)
    assert told("run", "count_visits").code == 0
    assert len(receiver.got) == 2
    assert headlines(receiver)[0].startswith("started, asked for by ")
    assert headlines(receiver)[1].startswith("succeeded after ")


def test_rows_in_quarantine_are_told_and_so_is_the_end_that_accepting_them_brings(
    told: Shop, receiver: Receiver
) -> None:
    told.users(200, bad=[7])
    assert told("run", "judge_age").code == 6
    assert headlines(receiver)[1].startswith("is paused (quarantine) after ")
    assert told("quarantine", "accept", "judge_age").code == 0
    assert headlines(receiver)[2].startswith("succeeded after ")


def test_an_error_is_told_with_the_command_that_goes_on(told: Shop, receiver: Receiver) -> None:
    told.users(200)
    done = told("run", "tells")
    assert done.code == 5, done.told
    assert headlines(receiver)[1].startswith("is paused (error) after ")
    assert receiver.texts[1].endswith("when it is mended: `backfill run tells`")


def test_the_command_that_goes_on_has_the_runs_parameters(told: Shop, receiver: Receiver) -> None:
    told.users(200)
    command = told.start("run", "lower_email", "-p", "since=5", "--rate", "50/s")
    until(lambda: told.number("SELECT count(*) FROM backfill.slice"), "a slice")
    told.conn.execute("ALTER TABLE users DROP COLUMN email_lower")
    assert command.end().code == 5
    assert receiver.texts[-1].endswith("when it is mended: `backfill run lower_email -p since=5`")


def test_a_channel_that_does_not_answer_keeps_the_work_from_nothing(
    told: Shop, receiver: Receiver
) -> None:
    told.users(200)
    release = threading.Event()
    receiver.before_answer = lambda: release.wait(60)
    began = time.monotonic()
    done = told("run", "count_visits")
    release.set()
    assert done.code == 0
    assert "succeeded" in done.stdout
    assert time.monotonic() - began < 20
    assert told.number("SELECT count(*) FROM users WHERE visits = 1") == 200


def test_who_leaves_at_once_waits_for_no_message(told: Shop, receiver: Receiver) -> None:
    told.users(200)
    release = threading.Event()
    receiver.before_answer = lambda: release.wait(60)
    command = told.start("run", "stubborn")
    until(lambda: receiver.got, "a message is under way")
    command.send(signal.SIGINT)
    command.until_told("finishing the batch")
    command.send(signal.SIGINT)
    began = time.monotonic()
    assert command.end().code == 130
    assert time.monotonic() - began < 2.5
    release.set()


def test_without_a_channel_nothing_is_sent_and_nothing_waits(shop: Shop) -> None:
    shop.users(200)
    assert shop("run", "count_visits").code == 0
    assert shop.number("SELECT count(*) FROM backfill.notice") == 0
    assert shop.number("SELECT count(*) FROM backfill.event WHERE NOT noticed") == 0


# --------------------------------------------------------------------------- backfill notify test


def test_each_channel_is_tried_and_says_what_came_back(told: Shop, receiver: Receiver) -> None:
    failing = program(told.folder, code=3, then="print('no such service')")
    told.settings(f"{OPS}[notify.pager]\ncommand = {failing}\n")
    done = told("notify", "test")
    assert done.code == 4
    assert done.stdout == "ops: the webhook (HOOK) answered 200: ok\n"
    assert "error: pager: the command" in done.stderr
    assert "ended with code 3\nno such service\n" in done.stderr
    (text,) = receiver.texts
    assert text.startswith("a test by ")
    assert heard(told.folder)[0]["kind"] == "test"
    assert told("notify", "test", "ops").code == 0


def test_what_is_refused_or_away_is_said_without_the_url(told: Shop, receiver: Receiver) -> None:
    receiver.status, receiver.body = 404, "no_service"
    done = told("notify", "test", "ops")
    assert (done.code, done.stdout) == (4, "")
    assert done.stderr == "error: ops: the webhook (HOOK) answered 404: no_service\n"
    away = told("notify", "test", HOOK=f"http://127.0.0.1:1/{SECRET}")
    assert away.code == 4
    assert "cannot be reached: Connection refused" in away.stderr
    assert SECRET not in away.told


def test_a_channel_that_there_is_not_is_a_clear_mistake(
    invoke: Callable[..., Result], tmp_path: object
) -> None:
    done = invoke("notify", "test")
    assert done.exit_code == 3
    assert "no channel" in done.stderr
    assert "[notify.ops]" in done.stderr


def test_a_misspelt_channel_is_a_clear_mistake(told: Shop) -> None:
    done = told("notify", "test", "opps")
    assert done.code == 2
    assert 'did you mean "ops"?' in done.stderr
