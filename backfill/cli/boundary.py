"""Where errors become exit codes (errors.py has the table) and sentences on standard error."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

import click

from backfill.errors import BackfillError, ExitCode, UnreachableError

_BUG = "With --debug (or BACKFILL_DEBUG=1) the same command shows where it arose."


def guarded(call: Callable[[], object], *, debug: bool) -> int:
    """Call, and say what went wrong; returns the exit code.

    Args:
        call: returns an exit code, or anything else for "done".
        debug: print tracebacks, too.
    """
    try:
        result = call()
    except click.UsageError as error:
        error.show()
        return int(ExitCode.USAGE)
    except click.ClickException as error:
        error.show()
        return int(ExitCode.FAILED)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return int(ExitCode.INTERRUPTED)
    # the command line's boundary: whatever it is, it becomes a sentence and an exit code
    except Exception as error:  # noqa: BLE001
        if debug:
            traceback.print_exception(error)
        told = as_told(error)
        click.echo(f"error: {told.message}", err=True)
        if told.remedy:
            click.echo(told.remedy, err=True)
        return int(told.exit_code)
    return result if isinstance(result, int) else int(ExitCode.DONE)


def as_told(error: Exception) -> BackfillError:
    """The error as a person is told it."""
    if isinstance(error, BackfillError):
        return error
    kind, first = type(error).__name__, (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, _loaded("psycopg", "Error")):
        return _of_postgres(error, first or kind)
    if isinstance(
        error, (*_loaded("redis", "RedisError"), *_loaded("kombu.exceptions", "OperationalError"))
    ):
        return UnreachableError(
            f"Redis cannot be used: {first or kind}",
            remedy="Check that it runs, and the address in its URL. No work is lost without it.",
        )
    return BackfillError(f"unexpected {kind}{': ' + first if first else ''}", remedy=_BUG)


def _of_postgres(error: Exception, first: str) -> BackfillError:
    state = getattr(error, "sqlstate", None)
    # without a SQLSTATE the connection itself was lost; class 08 and 57P say so, too
    if isinstance(error, _loaded("psycopg", "OperationalError")) and (
        state is None or state.startswith(("08", "57P"))
    ):
        return UnreachableError(
            f"the connection to PostgreSQL was lost: {first}",
            remedy="What was committed is kept; the same command can be given again.",
        )
    return BackfillError(
        f"PostgreSQL: {first}{f' ({state})' if state else ''}",
        remedy=_BUG,
    )


def _loaded(module: str, name: str) -> tuple[type[Exception], ...]:
    """An exception's class, if its library has been loaded: else it cannot have been raised."""
    found = getattr(sys.modules.get(module), name, None)
    return (found,) if isinstance(found, type) else ()
