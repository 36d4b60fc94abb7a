"""One place makes exit codes and sentences of errors."""

from __future__ import annotations

import click
import psycopg
import pytest
import redis
from kombu.exceptions import OperationalError as BrokerError

from backfill.cli.boundary import guarded
from backfill.errors import (
    BackfillError,
    DeclarationError,
    ExitCode,
    LedgerError,
    ProjectError,
    RefusedError,
    UnreachableError,
    UsageError,
    WaitTimeoutError,
)


def code_of(error: BaseException, *, debug: bool = False) -> int:
    def call() -> object:
        raise error

    return guarded(call, debug=debug)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BackfillError("it failed"), 1),
        (UsageError("no such name"), 2),
        (click.UsageError("no such option"), 2),
        (ProjectError("no such key"), 3),
        (DeclarationError("no such form"), 3),
        (UnreachableError("no answer"), 4),
        (psycopg.OperationalError("server closed the connection unexpectedly"), 4),
        (psycopg.errors.AdminShutdown("terminating connection"), 4),
        (redis.ConnectionError("refused"), 4),
        (BrokerError("refused"), 4),
        (RefusedError("not now"), 5),
        (LedgerError("too old"), 5),
        (WaitTimeoutError("too late"), 7),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (psycopg.errors.UndefinedColumn('column "a" does not exist'), 1),
        (ZeroDivisionError("division by zero"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_each_error_has_its_exit_code(error: BaseException, code: int) -> None:
    assert code_of(error) == code


def test_the_message_and_the_remedy_go_to_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code_of(RefusedError("the door is shut", remedy="Open it."))
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "error: the door is shut\nOpen it.\n"


def test_a_traceback_is_shown_only_when_it_was_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code_of(ZeroDivisionError("division by zero"))
    assert "Traceback" not in (told := capsys.readouterr().err)
    assert "--debug" in told
    code_of(ZeroDivisionError("division by zero"), debug=True)
    assert "Traceback" in capsys.readouterr().err


def test_a_result_that_is_no_number_means_done() -> None:
    assert guarded(lambda: None, debug=False) == ExitCode.DONE
    assert guarded(lambda: ExitCode.QUARANTINE, debug=False) == 6


def test_what_was_typed_neither_moves_the_cursor_nor_buries_the_message(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code_of(UsageError(f"no run \x1b[2J\u202e{'x' * 5000}: it is too long", remedy="\x07"))
    told = capsys.readouterr().err
    assert told.startswith("error: no run \\x1b[2J\\u202exxx")
    assert told.endswith("xxx: it is too long\n\\x07\n")
    assert len(told) < 1200
