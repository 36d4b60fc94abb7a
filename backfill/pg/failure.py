"""What an error of PostgreSQL means for us: whose fault it is, and what happens next.

| kind | what | then |
|---|---|---|
| transient | lost connection, deadlock, serialization, lock time-out, restart, stale plan | again |
| timeout | our own statement_timeout | again, with a smaller batch |
| row | its data (classes 21, 22, 23, 44; 27000, 54000; a trigger's RAISE) | halved, quarantine |
| stop | all else: permissions, missing columns, resources, read-only, a cancel | the run pauses |

Only an error of the write can be a row's: the same SQLSTATE while paging is the scope's fault.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import psycopg

_LOCK_NOT_AVAILABLE = "55P03"
#: SQLSTATE: Appendix A of the PostgreSQL manual.
_TRANSIENT = {
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
    _LOCK_NOT_AVAILABLE,  # our lock_timeout
    "57P01",  # admin_shutdown, pg_terminate_backend
    "57P02",  # crash_shutdown
    "57P03",  # cannot_connect_now
    "57P05",  # idle_session_timeout
    "25P03",  # idle_in_transaction_session_timeout
    "25P04",  # transaction_timeout
}
_ROW_CLASSES = {
    "21",  # cardinality_violation: a sub-select of the expression gave two rows
    "22",  # data_exception
    "23",  # integrity_constraint_violation
    "44",  # with_check_option_violation
}
_ROW_STATES = {
    "54000",  # program_limit_exceeded: a value too long for its index, for a tsvector
    "27000",  # triggered_data_change_violation: a trigger has written another row of the page
}
#: Classes whose messages quote values, or are made outside of PostgreSQL: of data, of constraints,
#: of PL/pgSQL's RAISE, of external routines, of foreign servers.
_QUOTING_CLASSES = {"22", "23", "P0", "38", "39", "HV"}
#: Where PostgreSQL's source reports what a user's function has raised, under any SQLSTATE.
_RAISING_FUNCTIONS = {"exec_stmt_raise"}
_RAISING_FILES = {"plpy_elog.c", "plperl.c", "pltcl.c"}
#: What PL/pgSQL raises in a row's trigger: RAISE, SELECT INTO STRICT without a row or with several,
#: ASSERT (Appendix A, class P0; P0000 is an error of PL/pgSQL itself).
_PLPGSQL = {"P0001", "P0002", "P0003", "P0004"}
_QUERY_CANCELED = "57014"
_NOT_SUPPORTED = "0A000"


class FaultKind(StrEnum):
    """Whose fault an error is."""

    TRANSIENT = "transient"
    TIMEOUT = "timeout"
    ROW = "row"
    STOP = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An error, classified.

    Attributes:
        sqlstate: five characters, or None when the connection was lost.
        message: PostgreSQL's primary message.
        summary: names the condition without any value, for logs.
        may_quote: the message may quote a value, so it is kept in the quarantine, and never logged.
    """

    kind: FaultKind
    sqlstate: str | None
    message: str
    summary: str
    may_quote: bool

    @property
    def is_locked_out(self) -> bool:
        """True when another session's lock was waited for in vain."""
        return self.sqlstate == _LOCK_NOT_AVAILABLE

    @property
    def told(self) -> str:
        """The summary, with the message unless that may quote a row, as a data error's does."""
        return self.summary if self.may_quote else f"{self.summary}: {self.message}"


def classify(
    error: psycopg.Error, *, writing: bool, seconds: float = 0.0, timeout: float = 1.0
) -> Fault:
    """Say what `error` means.

    Args:
        error: as psycopg raised it.
        writing: True when the statement that failed was the batch's write.
        seconds: how long that statement had been running. A cancelled statement carries the same
            SQLSTATE whether our time-out or a person cancelled it, and the message is translated,
            so the time tells. Where nobody has timed it, a cancel counts as a person's.
        timeout: the statement_timeout in force, in seconds.
    """
    state = error.sqlstate
    message = error.diag.message_primary or str(error).strip().split("\n")[0]
    summary = f"{type(error).__name__} ({state})" if state else type(error).__name__
    return Fault(
        kind=_kind(error, state, writing=writing, timed_out=seconds >= timeout * 0.95),
        sqlstate=state,
        message=message,
        summary=summary,
        may_quote=_may_quote(error),
    )


def _may_quote(error: psycopg.Error) -> bool:
    """Also where a function has raised it, or has made the statement out of values by EXECUTE."""
    return (
        (error.sqlstate or "")[:2] in _QUOTING_CLASSES
        or _is_raised(error)
        or "EXECUTE" in (error.diag.context or "")
    )


def _is_raised(error: psycopg.Error) -> bool:
    """True when a user's function has raised it."""
    diag = error.diag
    return diag.source_function in _RAISING_FUNCTIONS or diag.source_file in _RAISING_FILES


def _kind(error: psycopg.Error, state: str | None, *, writing: bool, timed_out: bool) -> FaultKind:
    if state is None:
        lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        return FaultKind.TRANSIENT if lost else FaultKind.STOP
    if state in _TRANSIENT or state.startswith("08") or _is_stale_plan(error):
        return FaultKind.TRANSIENT
    if state == _QUERY_CANCELED:
        return FaultKind.TIMEOUT if timed_out else FaultKind.STOP
    if writing and (
        state[:2] in _ROW_CLASSES
        or state in _PLPGSQL | _ROW_STATES
        or (_is_raised(error) and not _has_meaning(state))
    ):
        return FaultKind.ROW
    return FaultKind.STOP


def _has_meaning(state: str) -> bool:
    """True of an SQLSTATE of PostgreSQL's own (Appendix A); a RAISE may have another."""
    try:
        psycopg.errors.lookup(state)
    except KeyError:
        return False
    return True


def _is_stale_plan(error: psycopg.Error) -> bool:
    """True for "cached plan must not change result type": the table was changed in mid-run.

    The message is translated, so the place in PostgreSQL's source tells (plancache.c). Rolling back
    makes psycopg forget its prepared statements, so that the next try prepares them anew.
    """
    return (
        error.sqlstate == _NOT_SUPPORTED and error.diag.source_function == "RevalidateCachedQuery"
    )
