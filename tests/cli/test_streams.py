"""Standard streams that are closed, as under a daemon."""

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
