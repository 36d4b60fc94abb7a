"""Questions before something is written, and what a terminal shows of a run."""

from __future__ import annotations

import os
import pty
import signal
import threading
from collections.abc import Sequence

import pytest

from backfill.pg.ledger import events
from tests import starting
from tests.cli.conftest import BOUND_SECONDS, Shop, until

CONFIRM = 'jobs = ["jobs"]\n[databases.main]\nurl_env = "BACKFILL_DATABASE_URL"\nconfirm = true\n'
WRITING = [
    ["run", "lower_email"],
    ["enqueue", "lower_email"],
    ["pause", "judge_age"],
    ["resume", "judge_age"],
    ["cancel", "judge_age"],
    ["retry", "judge_age"],
    ["quarantine", "retry", "judge_age"],
    ["quarantine", "accept", "judge_age"],
    ["db", "upgrade"],
]
READING = [
    ["list"],
    ["status"],
    ["status", "judge_age"],
    ["watch", "judge_age"],
    ["events", "judge_age"],
    ["quarantine", "list"],
    ["db", "upgrade", "--sql"],
]


@pytest.mark.parametrize("arguments", WRITING, ids=" ".join)
def test_a_command_that_writes_asks_where_the_settings_want_it(
    judged: Shop, arguments: Sequence[str]
) -> None:
    judged.settings(CONFIRM)
    judged.environ["BACKFILL_REDIS_URL"] = "redis://127.0.0.1:1/0"
    before = len(events(judged.conn, judged.ledger, judged.latest("judge_age").id))
    done = judged(*arguments)
    assert done.code == 5
    assert "127.0.0.1" in done.stderr
    assert "database main" in done.stderr
    assert "--yes" in done.stderr
    assert len(events(judged.conn, judged.ledger, judged.latest("judge_age").id)) == before
    assert judged.number("SELECT count(*) FROM backfill.run") == 1


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_a_command_that_reads_never_asks(judged: Shop, arguments: Sequence[str]) -> None:
    judged.settings(CONFIRM)
    assert judged(*arguments).code in {0, 6}


def test_yes_answers_the_question(judged: Shop) -> None:
    judged.settings(CONFIRM)
    assert judged("run", "lower_email", "--yes").code == 0


@pytest.mark.parametrize(
    ("archive", "code"), [("postgresql://127.0.0.1:1/archive", 5), ("", 3)], ids=["no", "missing"]
)
def test_an_upgrade_of_several_databases_begins_when_all_are_confirmed(
    shop: Shop, archive: str, code: int
) -> None:
    plain = '[databases.main]\nurl_env = "BACKFILL_DATABASE_URL"\n'
    shop.settings(f'{plain}[databases.archive]\nurl_env = "ARCHIVE_URL"\nconfirm = true\n')
    shop.conn.execute("DROP SCHEMA backfill CASCADE")
    done = shop("db", "upgrade", ARCHIVE_URL=archive)
    assert (done.code, done.stdout) == (code, "")
    assert not shop.number("SELECT count(*) FROM pg_namespace WHERE nspname = 'backfill'")


class Terminal:
    """A command on a terminal of its own: what it prints, and what one types.

    Args:
        columns: the terminal's width.
    """

    def __init__(self, shop: Shop, *arguments: str, columns: int = 100) -> None:
        main, side = pty.openpty()
        self._main = main
        terminal = os.ttyname(side)
        self.process = starting.start(
            ["-m", "backfill", *arguments],
            folder=shop.folder,
            environ={**shop.environ, "TERM": "xterm", "COLUMNS": str(columns)},
            stdin=terminal,
            stdout=terminal,
        )
        self._side = side  # open until the command has opened it, too
        self.told = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._main, 4096)
            except OSError:  # the other side is closed
                return
            if not data:
                return
            self.told += data.decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self._main, text.encode())

    def end(self) -> int:
        try:
            code = self.process.wait(BOUND_SECONDS)
        finally:
            if self.process.poll() is None:
                self.process.kill()
            os.close(self._side)
            self._reader.join()
            os.close(self._main)
        return code


@pytest.mark.parametrize(("answer", "code", "state"), [("n", 5, "paused"), ("y", 0, "cancelled")])
def test_on_a_terminal_the_question_is_asked_and_the_answer_obeyed(
    judged: Shop, answer: str, code: int, state: str
) -> None:
    judged.settings(CONFIRM)
    terminal = Terminal(judged, "cancel", "judge_age")
    until(lambda: "Go on?" in terminal.told, "the question")
    assert "127.0.0.1" in terminal.told
    terminal.type(f"{answer}\n")
    assert terminal.end() == code
    assert judged.latest("judge_age").state == state


def test_cancel_asks_on_a_terminal_also_without_that_setting(judged: Shop) -> None:
    terminal = Terminal(judged, "cancel", "judge_age")
    until(lambda: "for good?" in terminal.told, "the question")
    terminal.type("n\n")
    assert terminal.end() == 5
    assert judged.latest("judge_age").state == "paused"


def test_on_a_terminal_a_run_draws_a_bar_and_leaves_the_sum(shop: Shop) -> None:
    shop.users(1_500)
    terminal = Terminal(shop, "run", "count_visits", "--rate", "1000/s")
    assert terminal.end() == 0
    assert "━" in terminal.told
    assert "users.visits" in terminal.told
    assert terminal.told.rstrip().endswith("1,500 paged = 1,500 written")
    assert "batch.committed" not in terminal.told


def test_the_cursor_is_back_after_leaving_at_once(shop: Shop) -> None:
    shop.users(50)
    terminal = Terminal(shop, "run", "stubborn")
    until(lambda: shop.number("SELECT count(*) FROM backfill.slice"), "a slice")
    terminal.type("\x03")
    terminal.process.send_signal(signal.SIGINT)
    until(lambda: "finishing the batch" in terminal.told, "the answer")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.end() == 130
    hidden, shown = terminal.told.rfind("\x1b[?25l"), terminal.told.rfind("\x1b[?25h")
    assert shown > hidden >= 0
