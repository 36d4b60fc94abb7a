"""The errors of backfill, and the exit codes that the command line gives them.

    BackfillError
     ├── UsageError            2   a wrong argument, a name that does not exist
     ├── ProjectError          3   the project's settings cannot be used
     │    └── DeclarationError 3   a job's class has a wrong shape (also a TypeError)
     ├── UnreachableError      4   PostgreSQL or Redis does not answer, or refuses us
     ├── RefusedError          5   understood, possible, and not allowed now
     │    ├── LedgerError      5   the ledger is missing, too old, too new, or another one
     │    └── LockedOutError   5   somebody's lock on a table is in the way; that passes by itself
     ├── WaitTimeoutError      7   what was waited for did not happen in time
     └── OutputError           1   standard output cannot be written (also an OSError)

    Quarantine                     raised by a transform: this row, for this reason
    RetryLater                     raised by a transform: the outside world is away

Every BackfillError says what is wrong in its message, and what to do in its remedy; `as_told` makes
one of any other exception.
"""

from __future__ import annotations

import math
import sys
from enum import IntEnum

_BUG = "With --debug (or BACKFILL_DEBUG=1) the same command shows where it arose."


class ExitCode(IntEnum):
    """What the command line returns (documented in docs/reference/exit-codes.md)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    PROJECT = 3
    UNREACHABLE = 4
    REFUSED = 5
    QUARANTINE = 6
    TIMED_OUT = 7
    INTERRUPTED = 130


class BackfillError(Exception):
    """Something that a user can read and act upon.

    Args:
        message: names the thing and says what is wrong; one sentence, no full stop needed.
        remedy: what to do now; empty when nothing can be done.
    """

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message


class UsageError(BackfillError):
    """A wrong argument, or a name that does not exist."""

    exit_code = ExitCode.USAGE


class ProjectError(BackfillError):
    """The project's settings, or a module that it names, cannot be used."""

    exit_code = ExitCode.PROJECT


class DeclarationError(ProjectError, TypeError):
    """A job's class has a wrong shape; the remedy shows the right form."""


class UnreachableError(BackfillError):
    """PostgreSQL or Redis does not answer, or refuses this login."""

    exit_code = ExitCode.UNREACHABLE


class RefusedError(BackfillError):
    """Understood and possible, but not allowed in the present state of things."""

    exit_code = ExitCode.REFUSED


class LedgerError(RefusedError):
    """The ledger is missing, of another version, or not the one that was meant."""


class LockedOutError(RefusedError):
    """Somebody's lock on a table is in the way, which passes by itself as a rule."""


class WaitTimeoutError(BackfillError):
    """What was waited for did not happen in time."""

    exit_code = ExitCode.TIMED_OUT


class OutputError(BackfillError, OSError):
    """Standard output cannot be written, as on a disk that is full.

    Args:
        because: what the system says.
    """

    def __init__(self, because: OSError) -> None:
        super().__init__(f"standard output cannot be written: {because.strerror}")
        #: Who read it has ended, as `head` does: nobody is left to be told.
        self.is_unread = isinstance(because, BrokenPipeError)


class Quarantine(Exception):  # noqa: N818 - the public name says what happens to the row
    """Raise it in a transform to put this row in quarantine, with this reason.

    Args:
        reason: shown by `backfill quarantine list`; leave personal data out of it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RetryLater(Exception):  # noqa: N818 - the public name says what happens next
    """Raise it in a transform when something outside is away: the slice waits, no row is blamed.

    Args:
        reason: shown in the run's events.
        seconds: how long to wait at least, 0 or more; more than an hour is an hour; None: the
            engine's own backoff.

    Raises:
        ValueError: `seconds` is negative, infinite or no number.
    """

    def __init__(self, reason: str = "", *, seconds: float | None = None) -> None:
        if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"RetryLater: seconds is {seconds}; it takes a number from 0 on")
        super().__init__(reason)
        self.reason = reason
        self.seconds = seconds


def as_told(error: Exception) -> BackfillError:
    """The error as a person is told it, whatever raised it."""
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
