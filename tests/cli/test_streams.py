"""Standard streams that are closed, as under a daemon, or cannot be written, as on a full disk."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.conftest import BOUND_SECONDS, Done, Shop


def redirected(shop: Shop, redirection: str, *arguments: str) -> Done:
    """Give a command in a shell that redirects its streams."""
    shell = ["sh", "-c", f'exec "$@" {redirection}', "sh"]
    done = subprocess.run(
        [*shell, sys.executable, "-m", "backfill", *arguments],
        cwd=shop.folder,
        env=shop.environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BOUND_SECONDS,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


# -- closed -------------------------------------------------------------------------------------


def test_with_standard_error_closed_a_command_does_what_it_does(shop: Shop) -> None:
    assert redirected(shop, "2>&-", "status") == Done(
        0, "there are no runs: `backfill list` shows the jobs\n", ""
    )
    assert redirected(shop, "2>&-", "status", "nothing").code == 2


def test_a_log_of_a_run_goes_into_no_connection_that_has_the_number_of_a_closed_stream(
    shop: Shop,
) -> None:
    shop.users(500)
    assert redirected(shop, "<&- >&- 2>&-", "run", "count_visits").code == 0
    assert shop.number("SELECT sum(visits) FROM users") == 500


def test_with_standard_input_closed_there_is_no_terminal_to_ask_on(celery_shop: Shop) -> None:
    shop = celery_shop
    shop.users(10)
    run = shop("enqueue", "lower_email").stdout.strip()
    assert redirected(shop, "<&-", "cancel", run) == Done(
        0, f"{run} is cancelled; what it has written stays\n", ""
    )


@pytest.mark.parametrize("command", ["stop-all", "start-all"])
def test_with_standard_input_closed_a_confirmation_is_refused(shop: Shop, command: str) -> None:
    shop.settings('jobs = ["jobs"]\n[databases.default]\nurl_env = "SHOP"\nconfirm = true\n')
    shop.environ["SHOP"] = shop.url
    done = redirected(shop, "<&-", command)
    assert done.code == 5
    assert "there is no terminal to ask on\nSay --yes" in done.stderr


# -- full ---------------------------------------------------------------------------------------

FULL = "error: standard output cannot be written: No space left on device\n"


@pytest.mark.parametrize(
    "command",
    ["status", "list --json", "--help", "run --help", "--version", "db upgrade --sql", "doctor"],
)
def test_output_that_cannot_be_written_is_one_sentence(shop: Shop, command: str) -> None:
    assert redirected(shop, ">/dev/full", *command.split()) == Done(1, "", FULL)


def test_a_run_that_was_enqueued_is_named_all_the_same(celery_shop: Shop) -> None:
    shop = celery_shop
    shop.users(10)
    done = redirected(shop, ">/dev/full", "enqueue", "lower_email")
    run = shop.latest("lower_email").id
    assert done.code == 1
    assert f"{run} is enqueued" in done.stderr
    assert done.stderr.endswith(FULL)
    done = redirected(shop, ">/dev/full", "cancel", run)
    assert done == Done(1, "", f"{run} is cancelled; what it has written stays\n{FULL}")


def test_a_run_in_this_process_pauses_and_says_why(shop: Shop) -> None:
    shop.users(10)
    done = redirected(shop, ">/dev/full", "run", "lower_email")
    run = shop.latest("lower_email")
    assert (done.code, run.state) == (1, "paused")
    assert f"{run.id} begins\n" in done.stderr
    assert done.stderr.endswith(FULL)
    assert "standard output cannot be written: No space left" in shop("status", run.id).stdout
    assert shop("run", "lower_email").code == 0


@pytest.mark.parametrize(("command", "code"), [("nope", 2), ("status nothing", 2), ("status", 0)])
def test_a_message_that_cannot_be_written_leaves_the_exit_code(
    shop: Shop, command: str, code: int
) -> None:
    assert redirected(shop, "2>/dev/full", *command.split()).code == code
    assert redirected(shop, ">/dev/full 2>&1", *command.split()).code == (code or 1)


def test_a_reader_that_has_seen_enough_is_told_nothing(shop: Shop) -> None:
    done = redirected(shop, "| true", "--help")
    assert done.stderr == ""
