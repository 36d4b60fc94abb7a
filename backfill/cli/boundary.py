"""Where errors become exit codes (errors.py has the table) and sentences on standard error."""

from __future__ import annotations

import io
import traceback
from collections.abc import Callable

import click

from backfill.cli.ending import EndedError, code_of
from backfill.errors import ExitCode, OutputError, as_told

#: Of a line that somebody is shown; what they typed may be of any length.
_LONGEST_LINE = 1000


def guarded(call: Callable[[], object], *, debug: bool) -> int:
    """Call, and say what went wrong; returns the exit code.

    Args:
        call: returns an exit code, or anything else for "done".
        debug: print tracebacks, too.
    """
    try:
        result = call()
    except click.ClickException as error:
        written = io.StringIO()
        error.show(written)
        click.echo(shown(written.getvalue().rstrip()), err=True)
        return int(ExitCode.USAGE if isinstance(error, click.UsageError) else ExitCode.FAILED)
    except (click.Abort, KeyboardInterrupt) as error:
        # click makes an Abort of every KeyboardInterrupt
        cause = error.__cause__ if isinstance(error, click.Abort) else error
        by = f" by {cause.number.name}" if isinstance(cause, EndedError) else ""
        click.echo(f"interrupted{by}", err=True)
        return code_of(cause)
    except OutputError as error:
        if not error.is_unread:
            click.echo(f"error: {error.message}", err=True)
        return int(error.exit_code)
    # the command line's boundary: whatever it is, it becomes a sentence and an exit code
    except Exception as error:  # noqa: BLE001
        if debug:
            traceback.print_exception(error)
        told = as_told(error)
        click.echo(f"error: {shown(told.message)}", err=True)
        if told.remedy:
            click.echo(shown(told.remedy), err=True)
        return int(told.exit_code)
    return result if isinstance(result, int) else int(ExitCode.DONE)


def shown(text: str) -> str:
    """Text that may quote what somebody typed, as a terminal may show it.

    Control characters and what turns the direction of writing are escaped: they would move the
    cursor, or hide a part of the line. A line that is too long to be read is cut.
    """
    return "\n".join(map(_shown_line, text.split("\n")))


def _shown_line(line: str) -> str:
    if len(line) > _LONGEST_LINE:
        # what is wrong with it stands behind what was typed
        head, tail = line[: _LONGEST_LINE // 2], line[-_LONGEST_LINE // 2 :]
        line = f"{head} … ({len(line) - _LONGEST_LINE:,} characters) … {tail}"
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in line
    )
