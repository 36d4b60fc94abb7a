"""Where errors become exit codes (errors.py has the table) and sentences on standard error."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import click

from backfill.errors import ExitCode, as_told


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
