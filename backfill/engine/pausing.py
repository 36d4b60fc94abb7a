"""Why a worker pauses its run by itself, and how it says so (I7)."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from contextlib import suppress

import psycopg

from backfill.engine import lifecycle
from backfill.engine.beat import LONGEST_CALL_SECONDS
from backfill.engine.bench import Bench
from backfill.engine.telling import in_a_reason
from backfill.errors import UnreachableError
from backfill.hours import Shut
from backfill.job import Options
from backfill.model import PauseCause
from backfill.pg.blocking import who_locks
from backfill.pg.connect import Connection, refuse_standby, server_time
from backfill.pg.failure import Fault, FaultKind, classify
from backfill.pg.freeing import Lapsed
from backfill.pg.ledger import Ledger, Run, pauses, totals
from backfill.pg.quarantine import open_quarantine

#: After so many failures without a commit between, in any process, the run pauses.
SLICE_ATTEMPTS = 6
#: The share of rows in quarantine counts from so many rows paged on: the first rows prove nothing.
SHARE_COUNTS_FROM_ROWS = 1_000


def pause_over_budget(bench: Bench) -> bool:
    """Pause when more rows are in quarantine than the options allow; True when it did."""
    waiting = open_quarantine(bench.conn, bench.ledger, bench.run.id)
    counts = totals(bench.conn, bench.ledger, bench.run.id).counts
    rows, share = bench.options.quarantine_rows, bench.options.quarantine_share
    too_many = waiting > rows
    too_often = counts.paged >= SHARE_COUNTS_FROM_ROWS and waiting > share * counts.paged
    if not (too_many or too_often):
        return False
    lifecycle.pause(
        bench.conn,
        bench.ledger,
        bench.run.id,
        PauseCause.QUARANTINE,
        reason=f"{waiting} of {counts.paged} rows paged"
        f" {'is' if waiting == 1 else 'are'} in quarantine; at most {rows}, and"
        f" {share:.1%} of the rows, may be",
        ends=f"`backfill quarantine list {bench.run.id}`, then `quarantine retry` or"
        " `quarantine accept`",
        by=bench.holder,
    )
    return True


def pause_for_window(bench: Bench, shut: Shut) -> None:
    """Pause until the run may work again."""
    lifecycle.pause(
        bench.conn,
        bench.ledger,
        bench.run.id,
        PauseCause.WINDOW,
        reason=shut.reason,
        ends=_opens(bench.run.id, shut),
        by=bench.holder,
    )


def _opens(run_id: str, shut: Shut) -> str:
    if shut.opens is not None:
        return f"by itself at {shut.opens.isoformat(timespec='minutes')}"
    return f"`backfill tune {run_id} --until …`, or `backfill cancel {run_id}`"


def open_window(conn: Connection, ledger: Ledger, run: Run) -> None:
    """End a run's pause for its hours when they have come, by the database's clock.

    Else the pause says until when they are away now: they may have been changed meanwhile.
    """
    kept = [p for p in pauses(conn, ledger, run.id) if p.cause == PauseCause.WINDOW]
    if not kept:
        return
    shut = Options.from_json(run.options).hours.shut(server_time(conn))
    if shut is None:
        lifecycle.lift(conn, ledger, run.id, [PauseCause.WINDOW], by="the window opened")
    elif (shut.reason, _opens(run.id, shut)) != (kept[0].reason, kept[0].ends):
        # one row that the run's end deletes: no lock of the run is needed to reword it
        conn.execute(
            ledger.q("UPDATE {s}.pause SET reason = %s, ends = %s WHERE run = %s AND cause = %s"),
            [shut.reason, _opens(run.id, shut), run.id, str(PauseCause.WINDOW)],
        )


def pause_for_silence(bench: Bench, age_seconds: float | None) -> None:
    """Pause because nobody measures the signals: what cannot be seen stops the run."""
    reason = (
        "its signals have not been measured at all"
        if age_seconds is None
        else f"its signals were last measured {age_seconds:.0f} s ago"
    )
    lifecycle.pause(
        bench.conn,
        bench.ledger,
        bench.run.id,
        PauseCause.SIGNAL,
        reason=f"{reason}; more than {bench.settings.signals_stale_seconds:g} s stop it",
        ends="by itself, when they are measured again and all is well",
        by=bench.holder,
    )


def pause_for_error(bench: Bench, reason: str) -> None:
    """Pause until somebody has mended it; `reason` is shown to people, and quotes no row."""
    lifecycle.pause(
        bench.conn,
        bench.ledger,
        bench.run.id,
        PauseCause.ERROR,
        reason=reason,
        ends=f"mend it, then `backfill resume {bench.run.id}`",
        by=bench.holder,
    )


def pause_for_failures(bench: Bench, number: int, attempts: int, fault: Fault) -> None:
    """Pause because a slice fails again and again; for locks, the reason names who has them."""
    reason = f"slice {number} failed {attempts} times in a row, last with"
    reason += f" {in_a_reason(fault, bench.secrets)}"
    if fault.is_locked_out:
        with suppress(psycopg.Error):  # whatever hinders the look, the pause is what matters
            tables = {bench.source.oid, bench.writer.table_oid}
            who = who_locks(bench.conn, tables) or "no session locks the whole table now"
            reason = f"{reason}; {who}"
    pause_for_error(bench, reason)


def pause_for_unexpected(bench: Bench, number: int, attempts: int, error: BaseException) -> None:
    """Pause because a defect, ours or of the job's code, meets every worker that tries a slice.

    The error's message is left out: a KeyError's is a value.
    """
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {frames[-1].name}" if frames else ""
    pause_for_error(
        bench,
        f"slice {number} failed {attempts} times in a row, last with an unexpected"
        f" {type(error).__name__}{place}; the log has the place",
    )


def pause_for_lapses(
    conn: Connection, ledger: Ledger, lapsed: Iterable[Lapsed], *, by: str
) -> None:
    """Pause runs whose slices lose one holder after the other, with nothing done between.

    Something in the slice ends each process that takes it, or keeps it for longer than a lease
    lasts: the next would fare no better, and would take its neighbours' slices with it.
    """
    for slice_ in lapsed:
        if slice_.times < SLICE_ATTEMPTS:
            continue
        lifecycle.pause(
            conn,
            ledger,
            slice_.run,
            PauseCause.ERROR,
            reason=f"slice {slice_.number} was lost {slice_.times} times in a row, last by"
            f" {slice_.holder}, and nothing was committed between: each holder was gone, or a call"
            f" or a read took longer than {LONGEST_CALL_SECONDS:.0f} s",
            ends="find the row that ends the process (its log, the system's log: out of memory?),"
            " or make batch_rows smaller or the call shorter, then"
            f" `backfill resume {slice_.run}`",
            by=by,
        )


def pause_unless_transient(bench: Bench, error: psycopg.Error) -> None:
    """An error outside every batch: what the caller tries again is raised, the rest pauses.

    Raises:
        psycopg.OperationalError, UnreachableError: the database is away, or cannot be written.
    """
    fault = classify(error, writing=False)
    if fault.kind is not FaultKind.STOP:
        if isinstance(error, psycopg.OperationalError):
            raise error
        raise UnreachableError(f"PostgreSQL ended our transaction: {fault.summary}") from error
    try:
        pause_for_error(bench, f"between two batches: {in_a_reason(fault, bench.secrets)}")
    except psycopg.Error:
        refuse_standby(bench.conn)
        raise
