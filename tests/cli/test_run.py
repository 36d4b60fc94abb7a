"""`backfill run`: to the end in this process, interrupted, and gone on with."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import psycopg
import pytest

from backfill.engine import lifecycle
from backfill.model import PauseCause
from backfill.pg.ledger import pauses
from backfill.pg.presence import has_process
from tests.cli.conftest import BOUND_SECONDS, Shop, until


def counted(shop: Shop) -> Callable[[], bool]:
    return lambda: shop.number("SELECT count(*) FROM users WHERE visits > 0") > 0


def test_a_run_ends_with_a_sum_of_what_became_of_the_rows(shop: Shop) -> None:
    shop.users(300)
    done = shop("run", "lower_email")
    assert done.code == 0, done.stderr
    assert "succeeded" in done.stdout
    assert "300 paged = 300 written" in done.stdout
    assert shop.number("SELECT count(*) FROM users WHERE email_lower = lower(email)") == 300


def test_parameters_and_options_of_the_command_line_hold_for_the_run(shop: Shop) -> None:
    shop.users(300)
    done = shop("run", "lower_email", "-p", "since=101", "--set", "slice_rows=50", "--rate=90000/s")
    assert "200 paged = 200 written" in done.stdout
    run = shop.latest("lower_email")
    assert run.params == {"since": 101}
    assert (run.options["slice_rows"], run.options["rate"]) == (50, "90000/s")
    assert run.slices == 6  # of 300 rows: the frontier walks the key without the scope


def test_without_a_terminal_lines_are_plain_and_at_most_one_a_second(shop: Shop) -> None:
    shop.users(2_000)
    done = shop("run", "count_visits", "--rate", "800/s")
    lines = [line for line in done.stdout.splitlines() if "users.visits" in line]
    assert 1 <= len(lines) <= 6
    assert all("\x1b" not in line for line in lines)


def test_rows_in_quarantine_give_exit_code_6_and_say_what_to_type(shop: Shop) -> None:
    shop.users(200, bad=[7, 70])
    done = shop("run", "judge_age")
    assert done.code == 6
    assert "2 rows are in quarantine" in done.stdout
    assert "backfill quarantine list" in done.stdout
    assert shop.number("SELECT count(*) FROM users WHERE adult") == 198


def test_one_row_is_told_of_as_one(shop: Shop) -> None:
    shop.users(100, bad=[7])
    done = shop("run", "judge_age")
    assert "quarantine: 1 row is in quarantine; everything else is done" in done.stdout
    assert "1 row waiting, 0 accepted" in shop("status", "judge_age").stdout
    limited = shop("run", "lower_email", "--limit", "1")
    assert "it took the 1 row of its limit; there may be more" in limited.stdout


def test_an_error_that_is_no_rows_fault_gives_exit_code_5_and_its_end(shop: Shop) -> None:
    shop.users(200)
    done = shop("run", "tells")
    assert done.code == 5
    assert "the bell does not ring" in done.stdout
    assert "backfill resume" in done.stdout


def test_what_an_error_paused_is_continued_by_the_same_command(shop: Shop) -> None:
    shop.users(200)
    assert shop("run", "tells").code == 5
    done = shop("run", "tells", MENDED="yes")
    assert done.code == 0, done.told
    assert "continuing tells-" in done.stdout


def test_a_run_that_fails_gives_exit_code_1_and_names_what_holds_the_rows(shop: Shop) -> None:
    shop.users(100)
    shop.settings('jobs = ["jobs"]\n[engine]\nsweep_seconds = 0.5\nbegin_wait_seconds = 0\n')
    with psycopg.connect(shop.url) as other:
        other.execute("SELECT FROM users WHERE id = 50 FOR UPDATE")
        done = shop("run", "lower_email")
    assert done.code == 1
    assert "failed" in done.stdout
    assert "50" in done.stdout
    assert f"backfill retry {shop.latest('lower_email').id}" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_in_the_middle_it_is_continued_and_every_row_is_done_once(
    shop: Shop, number: signal.Signals
) -> None:
    """I1, I2: the effect is not idempotent, and there is no todo to hide a second one."""
    shop.users(3_000)
    first = shop.start("run", "count_visits", "--rate", "1500/s")
    until(counted(shop), "the first rows")
    first.send(number)
    stopped = first.end()
    assert stopped.code == 130
    assert "finishing the batch in hand" in stopped.stderr
    assert "backfill run count_visits" in stopped.stdout
    run = shop.latest("count_visits")
    assert f"backfill resume {run.id}" in stopped.stdout
    assert run.state == "paused"
    assert [pause.cause for pause in pauses(shop.conn, shop.ledger, run.id)] == ["user"]
    assert 0 < shop.number("SELECT sum(visits) FROM users") < 3_000

    second = shop("run", "count_visits")
    assert second.code == 0, second.told
    assert f"continuing {run.id}, " in second.stdout
    assert "3,000 paged = 3,000 written" in second.stdout
    assert shop.number("SELECT count(*) FROM users WHERE visits = 1") == 3_000


def test_a_second_ctrl_c_leaves_at_once_and_the_run_is_still_resumable(shop: Shop) -> None:
    shop.users(100)
    shop.settings('jobs = ["jobs"]\n[engine]\nlease_seconds = 1\n')
    command = shop.start("run", "stubborn")
    until(lambda: shop.number("SELECT count(*) FROM backfill.slice") > 0, "a slice")
    command.send(signal.SIGINT)
    command.until_told("finishing the batch in hand")
    command.send(signal.SIGINT)
    left = command.end()
    assert left.code == 130
    assert "left at once" in left.stderr
    assert "backfill run stubborn" in left.stderr
    assert shop.number("SELECT count(*) FROM users WHERE adult") == 0

    done = shop("run", "stubborn")
    assert done.code == 0, done.told
    assert shop.number("SELECT count(*) FROM users WHERE adult") == 100


def test_a_killed_process_leaves_a_run_that_is_continued(shop: Shop) -> None:
    """I1: what was committed is not done again."""
    shop.users(2_000)
    shop.settings('jobs = ["jobs"]\n[engine]\nlease_seconds = 1\n')
    command = shop.start("run", "count_visits", "--rate", "1500/s")
    until(counted(shop), "the first rows")
    command.kill()
    done = shop("run", "count_visits")
    assert done.code == 0, done.told
    assert shop.number("SELECT count(*) FROM users WHERE visits = 1") == 2_000


def test_a_run_whose_process_is_gone_says_so_and_one_that_waits_does_not(shop: Shop) -> None:
    shop.users(100)
    with psycopg.connect(shop.url) as writing:
        writing.execute("UPDATE users SET age = 21 WHERE id = 1")
        command = shop.start("run", "count_visits")
        until(lambda: shop.number("SELECT count(barrier) FROM backfill.run"), "the wait")
        shop.conn.execute("UPDATE backfill.run SET created_at = created_at - interval '1 min'")
        shop.conn.execute("UPDATE backfill.event SET at = at - interval '1 min'")
        assert "limited by  older transactions" in shop("status", "count_visits").stdout
        command.kill()
        gone = _until_told(shop, "its process is gone")
        run = shop.latest("count_visits").id
        assert (
            "its process is gone: `backfill run count_visits` goes on here,"
            f" `backfill resume {run}` on workers"
        ) in gone
        assert "left" not in gone.splitlines()[1]
        # through a pooler an idle process has no session: what a run may wait for must do
        shop.conn.prepare_threshold = None
        assert has_process(shop.conn, shop.ledger, run)
    assert shop("run", "count_visits").code == 0
    assert not has_process(shop.conn, shop.ledger, run)


def _until_told(shop: Shop, text: str) -> str:
    """What `status` tells of the run, once that is in it."""

    def told() -> str | None:
        found = shop("status", "count_visits").stdout
        return found if text in found else None

    return until(told, f"{text!r} in what status tells")


@pytest.mark.parametrize("ignored", [False, True])
def test_a_terminal_that_goes_pauses_the_run_unless_that_is_ignored(
    shop: Shop, ignored: bool
) -> None:
    shop.users(2_000)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN) if ignored else None
    try:
        command = subprocess.Popen(
            [sys.executable, "-m", "backfill", "run", "count_visits", "--rate", "1500/s"],
            cwd=shop.folder,
            env=shop.environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    finally:
        if before is not None:
            signal.signal(signal.SIGHUP, before)
    until(counted(shop), "the first rows")
    command.send_signal(signal.SIGHUP)
    command.send_signal(signal.SIGHUP)
    assert command.wait(BOUND_SECONDS) == (0 if ignored else 130)
    if not ignored:
        told = shop("status", "count_visits").stdout
        assert "paused: user: interrupted (SIGHUP: its terminal is gone)" in told


def test_options_given_to_a_run_that_is_continued_are_named_as_left_aside(shop: Shop) -> None:
    shop.users(200)
    shop("run", "tells")
    done = shop("run", "tells", "--rate", "10/s", MENDED="yes")
    assert "keeps the options that it began with; rate" in done.stderr


def test_a_run_with_other_parameters_is_not_continued(shop: Shop) -> None:
    shop.users(200, bad=[3])
    command = shop.start("run", "lower_email", "--rate", "20/s")
    until(lambda: shop.number("SELECT count(*) FROM users WHERE email_lower <> ''"), "rows")
    command.send(signal.SIGINT)
    assert command.end().code == 130
    done = shop("run", "lower_email", "-p", "since=5")
    assert done.code == 5
    assert "with other parameters" in done.stderr


def test_a_pause_from_elsewhere_ends_the_process_with_exit_code_5(shop: Shop) -> None:
    shop.users(3_000)
    command = shop.start("run", "count_visits", "--rate", "1000/s")
    until(counted(shop), "the first rows")
    paused = shop("pause", "count_visits", "--reason", "the shop is full")
    assert paused.code == 0, paused.stderr
    done = command.end()
    assert done.code == 5
    assert "the shop is full" in done.stdout


def test_a_window_is_waited_for_and_said(shop: Shop) -> None:
    shop.users(100)
    closed = "00:00-00:01 UTC" if not _is_first_minute(shop) else "12:00-12:01 UTC"
    command = shop.start("run", "lower_email", "--window", closed)
    command.until_told("outside its window")
    command.send(signal.SIGINT)
    assert command.end().code == 130


def _is_first_minute(shop: Shop) -> bool:
    """Within two minutes of midnight: the other window is surely closed then."""
    return shop.number("SELECT extract(hour FROM now() AT TIME ZONE 'UTC')::int") in {0, 23}


def test_the_database_may_go_away_for_a_moment(shop: Shop) -> None:
    shop.users(3_000)
    command = shop.start("run", "count_visits", "--rate", "1500/s")
    until(counted(shop), "the first rows")
    # every session of the command, but not ours: its own view of the run among them
    shop.conn.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    done = command.end()
    assert done.code == 0, done.told
    assert shop.number("SELECT count(*) FROM users WHERE visits = 1") == 3_000


def test_a_failing_setup_pauses_the_run_and_shows_no_traceback(shop: Shop) -> None:
    shop.users(10)
    (shop.folder / "jobs" / "broken_setup.py").write_text(
        "from backfill import Job, Sql, Table, Update\n"
        "class Unready(Job):\n"
        "    source = Table('users', todo='email_lower IS NULL')\n"
        "    transform = Sql(email_lower='lower(email)')\n"
        "    target = Update()\n"
        "    def setup(self, conn):\n"
        "        raise KeyError('no such look-up')\n",
        encoding="utf-8",
    )
    done = shop("run", "unready")
    assert done.code in {1, 3, 5}
    assert "no such look-up" in done.told
    assert "Traceback" not in done.told
    run = shop.latest("unready")
    assert run.state == "paused"
    assert "no such look-up" in pauses(shop.conn, shop.ledger, run.id)[0].reason


def test_two_processes_may_work_on_one_run(shop: Shop) -> None:
    """I1: slots and epochs keep them apart."""
    shop.users(3_000)
    # slow enough for the other to come while the first one works, on a busy machine, too
    one = shop.start("run", "count_visits", "--rate", "500/s")
    until(counted(shop), "the first rows")
    other = shop.start("run", "count_visits")
    assert one.end().code == 0
    assert other.end().code == 0
    assert shop.number("SELECT count(*) FROM users WHERE visits = 1") == 3_000


def test_a_run_cancelled_from_elsewhere_gives_exit_code_1(shop: Shop) -> None:
    shop.users(3_000)
    command = shop.start("run", "count_visits", "--rate", "1000/s")
    until(counted(shop), "the first rows")
    lifecycle.cancel(
        shop.conn, shop.ledger, shop.latest("count_visits").id, reason="enough", by="a test"
    )
    done = command.end()
    assert done.code == 1
    assert "cancelled" in done.stdout


def test_ctrl_c_after_another_cause_does_not_hide_that_cause(shop: Shop) -> None:
    """I7: the run is paused by what stopped it first."""
    shop.users(300)
    command = shop.start("run", "stubborn")
    until(lambda: shop.number("SELECT count(*) FROM backfill.slice") > 0, "a slice")
    run = shop.latest("stubborn")
    paused = threading.Thread(
        target=lifecycle.pause,
        args=(shop.conn, shop.ledger, run.id, PauseCause.ERROR),
        kwargs={"reason": "a disk is full", "ends": "mend it", "by": "a test"},
    )
    paused.start()
    paused.join()
    command.send(signal.SIGINT)
    done = command.end()
    assert "a disk is full" in done.stdout
    assert {pause.cause for pause in pauses(shop.conn, shop.ledger, run.id)} == {"error"}
