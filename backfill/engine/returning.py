"""How a slice goes back that something ended the work on: when it may be taken again, what counts.

What counts is a failure of the slice: so many in a row, in any process, without a commit between,
pause the run, for nothing else would ever end them. An outage of the world outside is none: it ends
by itself, and is waited for however long it lasts. A worker that is told to stop, and a database
that is away, are no failures of a slice. Who dies cannot count: see pausing.pause_for_lapses.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
import structlog

from backfill.engine.bench import Bench
from backfill.engine.faults import (
    Interruption,
    LimitedError,
    OutageError,
    RetriableError,
    StopError,
)
from backfill.engine.pausing import (
    SLICE_ATTEMPTS,
    pause_for_error,
    pause_for_failures,
    pause_for_unexpected,
)
from backfill.errors import BackfillError
from backfill.events import Event
from backfill.pg.slices import Slice

log = structlog.get_logger("backfill")

#: A lock that is waited for comes free by itself as a rule, also at night: a migration may stand
#: in the queue before us for as long as somebody's report runs. So the run goes on by itself within
#: LOCKED_WAIT_SECONDS of its end, and pauses after about ten minutes.
LOCKED_ATTEMPTS = 60
LOCKED_WAIT_SECONDS = 10.0
#: The longest that a slice waits after a failure or an outage that names no time.
LONGEST_WAIT_SECONDS = 60.0
#: The longest that a transform may make it wait: what RetryLater was told may be a mistake, such as
#: milliseconds, and nobody asks again before.
LONGEST_RETRY_SECONDS = 3600.0
#: Whose code ends the process by SystemExit when it is told to; anybody else's does it to a row.
_STOPPERS = frozenset({"backfill", "billiard", "celery"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Returned:
    """How a slice goes back.

    Attributes:
        why: for the log.
        wait_seconds: nobody takes it before that.
        failed: counts as a failure.
        was_outage: counts as an outage: the next one is waited for longer, however many there are.
    """

    why: str
    wait_seconds: float = 0.0
    failed: bool = False
    was_outage: bool = False


def interrupted(bench: Bench, held: Slice, error: Interruption, *, attempts: int) -> Returned:
    """What follows from an interruption; the run is paused where that is due.

    Args:
        attempts: of this slice, since something was committed (Slice.attempts).
    """
    failures, outages = max(attempts, 0), max(-attempts, 0)
    match error:
        case LimitedError():
            return Returned(why=str(error), wait_seconds=error.seconds)
        case OutageError():
            bench.observer.outage(bench)
            why = f"outage: {error.reason}"
            log_failure(held, why, attempt=outages)
            wait_seconds = _backoff(outages)
            if error.seconds is not None:
                wait_seconds = min(error.seconds, LONGEST_RETRY_SECONDS)
            return Returned(why=why, wait_seconds=wait_seconds, was_outage=True)
        case RetriableError(fault=fault):
            wait_seconds, most = _backoff(failures), SLICE_ATTEMPTS
            if fault.is_locked_out:
                wait_seconds, most = min(wait_seconds, LOCKED_WAIT_SECONDS), LOCKED_ATTEMPTS
            if failures + 1 >= most:
                pause_for_failures(bench, held.number, failures + 1, fault)
            return Returned(why=fault.summary, wait_seconds=wait_seconds, failed=True)
        case StopError():
            pause_for_error(bench, error.reason)
            return Returned(why=error.summary, failed=True)
    return Returned(why=str(error))


def unexpected(bench: Bench, held: Slice, error: BaseException, *, attempts: int) -> Returned:
    """What follows from what nobody foresaw: the caller raises it on.

    Args:
        attempts: as for `interrupted`.
    """
    why, failures = type(error).__name__, max(attempts, 0)
    if not _is_a_defect(bench, error):
        return Returned(why=why)
    if failures + 1 >= SLICE_ATTEMPTS:
        pause_for_unexpected(bench, held.number, failures + 1, error)
    return Returned(why=why, wait_seconds=_backoff(failures), failed=True)


def _is_a_defect(bench: Bench, error: BaseException) -> bool:
    """Not the process's own end, nor a database that is away or a run that is gone."""
    if isinstance(error, SystemExit):
        return _exited_in(error) not in _STOPPERS and not bench.stopping()
    return isinstance(error, Exception) and not isinstance(error, psycopg.Error | BackfillError)


def _exited_in(error: SystemExit) -> str:
    """Whose code ended the process: the package of the last frame."""
    last, trace = "", error.__traceback__
    while trace is not None:
        name = str(trace.tb_frame.f_globals.get("__name__", ""))
        # in the processes of a pool this is sys.exit, whoever calls it
        if (name, trace.tb_frame.f_code.co_name) != ("billiard.pool", "exit"):
            last = name.partition(".")[0]
        trace = trace.tb_next
    return last


def _backoff(failures: int) -> float:
    # an outage may last for days: 2 to the power of 1,024 is no float any more
    return float(min(LONGEST_WAIT_SECONDS, 0.5 * 2 ** min(failures, 10)))


def log_failure(held: Slice, error: str, *, attempt: int | None = None) -> None:
    """A batch was rolled back, and why."""
    log.warning(
        Event.BATCH_FAILED,
        run=held.run,
        slice=held.number,
        epoch=held.epoch,
        error=error,
        **({} if attempt is None else {"attempt": attempt}),
    )
