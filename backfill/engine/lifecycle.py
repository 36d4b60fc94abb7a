"""The life of a run: every change of its state is made here, and each says who, when and why (I7).

Each function is one transaction that locks the run's row first. What ends or reverses a run raises
the epochs of its slices before it changes the state, and so waits for the batches in hand.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg

from backfill.errors import RefusedError
from backfill.events import Event
from backfill.model import PauseCause, RunState
from backfill.pg import slices
from backfill.pg.changes import claim_writes, delete_pauses, insert_pause, release_writes, set_state
from backfill.pg.connect import Connection, server_time, transaction
from backfill.pg.control import Stopped, stopped
from backfill.pg.ledger import Ledger, Run, add_event, get_run, totals
from backfill.pg.quarantine import open_quarantine
from backfill.pg.samples import delete_samples

#: How often the completion check may send slices back before the run fails.
MOST_PASSES = 3
#: What ends the pause of the red button.
START_ALL = "`backfill start-all`"


def pause(
    conn: Connection,
    ledger: Ledger,
    run_id: str,
    cause: PauseCause,
    *,
    reason: str,
    ends: str,
    by: str,
    judged: str | None = None,
) -> bool:
    """Add a cause to pause; False when the run is not live or has this cause already.

    Batches in hand finish; the next ones see the state.

    Args:
        judged: the fingerprint of the declaration that the caller compared: when another one has
            been accepted since, the verdict is out of date, and nothing is changed.
    """
    with transaction(conn):
        run = get_run(conn, ledger, run_id, lock=True)
        return judged in {None, run.fingerprint} and add_cause(
            conn, ledger, run, cause, reason=reason, ends=ends, by=by
        )


def add_cause(
    conn: Connection,
    ledger: Ledger,
    run: Run,
    cause: PauseCause,
    *,
    reason: str,
    ends: str,
    by: str,
) -> bool:
    """Add a cause to pause a run that this transaction has locked; False as for `pause`."""
    if not run.run_state.is_live or not insert_pause(
        conn, ledger, run.id, cause, reason=reason, ends=ends, by=by
    ):
        return False
    if run.run_state is not RunState.PAUSED:
        set_state(conn, ledger, run, RunState.PAUSED)
    told = {"cause": str(cause), "reason": reason, "ends": ends}
    add_event(conn, ledger, Event.RUN_PAUSED, run=run.id, caused_by=by, **told)
    return True


def lift(
    conn: Connection, ledger: Ledger, run_id: str, causes: Sequence[PauseCause], *, by: str
) -> bool:
    """Take causes away; with the last one the run goes on. False when none of them was there."""
    with transaction(conn):
        return take_causes(conn, ledger, get_run(conn, ledger, run_id, lock=True), causes, by=by)


def take_causes(
    conn: Connection, ledger: Ledger, run: Run, causes: Sequence[PauseCause], *, by: str
) -> bool:
    """Take causes away from a run that this transaction has locked; False as for `lift`."""
    if not (lifted := delete_pauses(conn, ledger, run.id, causes)):
        return False
    _go_on(conn, ledger, run)
    add_event(conn, ledger, Event.RUN_RESUMED, run=run.id, caused_by=by, causes=sorted(lifted))
    return True


def _go_on(conn: Connection, ledger: Ledger, run: Run) -> None:
    left = conn.execute(ledger.q("SELECT FROM {s}.pause WHERE run = %s"), [run.id]).rowcount
    if run.run_state is RunState.PAUSED and not left:
        _begin_to_sweep(conn, ledger, run)  # nobody is stuck for having been paused
        set_state(conn, ledger, run, RunState.RUNNING if run.began else RunState.QUEUED)


def _begin_to_sweep(conn: Connection, ledger: Ledger, run: Run) -> None:
    """From now on it counts whether a deferred row can be had: before, nobody tried (stuck.py)."""
    conn.execute(
        ledger.q(
            "UPDATE {s}.slice SET progress_at = clock_timestamp()"
            " WHERE run = %s AND phase = 'sweep'"
        ),
        [run.id],
    )


def advance(
    conn: Connection, ledger: Ledger, run_id: str, *, by: str, may_succeed: bool
) -> RunState:
    """Move a run on when its phase has nothing left: called by whoever finds no slice to take.

    Args:
        may_succeed: whether the caller has called the job's `after_run`, which comes first.

    Returns:
        The state it is in then.
    """
    with transaction(conn):
        run = get_run(conn, ledger, run_id, lock=True)
        if run.run_state is RunState.RUNNING and _is_walked(conn, ledger, run):
            set_state(conn, ledger, run, RunState.SWEEPING)
            _begin_to_sweep(conn, ledger, run)
            deferred = totals(conn, ledger, run_id).counts.deferred
            add_event(conn, ledger, Event.RUN_SWEEPING, run=run_id, caused_by=by, deferred=deferred)
            run = get_run(conn, ledger, run_id)
        if run.run_state is RunState.SWEEPING:
            phases = totals(conn, ledger, run_id).by_phase
            if phases["walk"]:
                set_state(conn, ledger, run, RunState.RUNNING)
            elif not phases["sweep"]:
                set_state(conn, ledger, run, RunState.VERIFYING)
                add_event(
                    conn,
                    ledger,
                    Event.RUN_VERIFYING,
                    run=run_id,
                    caused_by=by,
                    slices=phases["verify"],
                )
            run = get_run(conn, ledger, run_id)
        if run.run_state is RunState.VERIFYING:
            _finish(conn, ledger, run, by=by, may_succeed=may_succeed)
        return get_run(conn, ledger, run_id).run_state


def _is_walked(conn: Connection, ledger: Ledger, run: Run) -> bool:
    return run.frontier_done and not totals(conn, ledger, run.id).by_phase["walk"]


def _finish(conn: Connection, ledger: Ledger, run: Run, *, by: str, may_succeed: bool) -> None:
    """The end of the completion check: back to work, quarantine, or success."""
    total = totals(conn, ledger, run.id)
    if total.by_phase["verify"]:
        return
    if total.by_phase["walk"] or total.by_phase["sweep"]:
        again = int(total.by_phase["walk"] > 0)
        set_state(conn, ledger, run, RunState.RUNNING, passes=run.passes + again)
        add_event(
            conn,
            ledger,
            Event.RUN_REWALKED,
            run=run.id,
            caused_by=by,
            slices=total.by_phase["walk"],
            passes=run.passes + again,
        )
        return
    if waiting := open_quarantine(conn, ledger, run.id):
        rows = "1 row is" if waiting == 1 else f"{waiting} rows are"
        reason = f"{rows} in quarantine; everything else is done"
        ends = (
            f"`backfill quarantine list {run.id}`, then `backfill quarantine retry {run.id}`"
            f" (when mended) or `backfill quarantine accept {run.id}`"
        )
        add_cause(conn, ledger, run, PauseCause.QUARANTINE, reason=reason, ends=ends, by=by)
        return
    if not may_succeed:
        return
    _end(conn, ledger, run, RunState.SUCCEEDED)
    add_event(
        conn,
        ledger,
        Event.RUN_SUCCEEDED,
        run=run.id,
        caused_by=by,
        counts=total.counts.as_dict(),
        **({"limit": run.row_limit} if total.counts.reach(run.row_limit) else {}),
    )


def _end(
    conn: Connection, ledger: Ledger, run: Run, state: RunState, *, failure: str | None = None
) -> None:
    delete_pauses(conn, ledger, run.id)
    set_state(conn, ledger, run, state, failure=failure, finished_at=server_time(conn))
    release_writes(conn, ledger, run.id)
    delete_samples(conn, ledger, run.id)


def fail(conn: Connection, ledger: Ledger, run_id: str, *, reason: str, by: str) -> None:
    """End a live run as failed; `retry` takes it up again where it is."""
    with transaction(conn):
        run = get_run(conn, ledger, run_id, lock=True)
        if not run.run_state.is_live:
            return
        slices.raise_epochs(conn, ledger, run_id)
        _end(conn, ledger, run, RunState.FAILED, failure=reason)
        add_event(conn, ledger, Event.RUN_FAILED, run=run_id, caused_by=by, reason=reason)


def cancel(conn: Connection, ledger: Ledger, run_id: str, *, reason: str, by: str) -> None:
    """End a live or failed-over run for good. When this returns, no batch of it can commit.

    Raises:
        RefusedError: it has ended already.
    """
    with transaction(conn):
        run = get_run(conn, ledger, run_id, lock=True)
        if not run.run_state.is_live:
            raise RefusedError(
                f"run {run_id} is {run.state} already", remedy="There is nothing to cancel."
            )
        slices.raise_epochs(conn, ledger, run_id)
        _end(conn, ledger, run, RunState.CANCELLED)
        add_event(conn, ledger, Event.RUN_CANCELLED, run=run_id, caused_by=by, reason=reason)


def retry(
    conn: Connection,
    ledger: Ledger,
    run_id: str,
    *,
    by: str,
    relation: str,
    columns: Sequence[str],
) -> None:
    """Take a failed run up again where it stopped.

    Args:
        relation, columns: what it writes, to be claimed again.

    Raises:
        RefusedError: it has not failed, or another live run writes the same columns.
    """
    with transaction(conn):
        button = stopped(conn, ledger, lock=True)
        run = get_run(conn, ledger, run_id, lock=True)
        if run.run_state is not RunState.FAILED:
            raise RefusedError(
                f"run {run_id} is {run.state}; only a failed run can be retried",
                remedy=(
                    f"`backfill resume {run_id}` continues a paused one."
                    if run.run_state is RunState.PAUSED
                    else f"See `backfill status {run_id}`."
                ),
            )
        conn.execute(
            ledger.q(
                # pass 1, not 0: the quarantined keys of a slice walked again stay left out
                "UPDATE {s}.slice SET attempts = 0, not_before = '-infinity',"
                " pass = least(pass, 1), progress_at = clock_timestamp() WHERE run = %s"
            ),
            [run_id],
        )
        state = RunState.RUNNING if run.began else RunState.QUEUED
        try:
            set_state(conn, ledger, run, state, failure=None, finished_at=None, passes=0)
        except psycopg.errors.UniqueViolation as error:
            raise RefusedError(
                f"job {run.job} has another live run already",
                remedy=f"Wait for it, or end it: see `backfill status {run.job}`.",
            ) from error
        claim_writes(conn, ledger, run_id, relation, columns)
        add_event(conn, ledger, Event.RUN_RETRIED, run=run_id, caused_by=by)
        hold_back(conn, ledger, run_id, button)


def hold_back(conn: Connection, ledger: Ledger, run_id: str, button: Stopped | None) -> None:
    """Pause a run that begins while the red button is pressed. A transaction must be open.

    Args:
        button: as this transaction found it, locked, before it locked the run.
    """
    if button is None:
        return
    run = get_run(conn, ledger, run_id, lock=True)
    add_cause(
        conn, ledger, run, PauseCause.STOP_ALL, reason=button.told, ends=START_ALL, by=button.by
    )


def hand_over(conn: Connection, ledger: Ledger, run_id: str, *, by: str) -> bool:
    """Give a run that a process of its own worked on to the workers; False when it is theirs.

    A process that still works on it may go on: slots and epochs keep the two apart (I3).

    Raises:
        RefusedError: it has ended.
    """
    with transaction(conn):
        run = get_run(conn, ledger, run_id, lock=True)
        if not run.run_state.is_live:
            raise RefusedError(
                f"run {run_id} is {run.state} already", remedy="There is nothing to hand over."
            )
        if run.executor == "celery":
            return False
        conn.execute(ledger.q("UPDATE {s}.run SET executor = 'celery' WHERE id = %s"), [run_id])
        add_event(conn, ledger, Event.RUN_HANDED_OVER, run=run_id, caused_by=by)
    return True


def release_quarantine(conn: Connection, ledger: Ledger, run_id: str, *, by: str) -> int:
    """Take the quarantined rows again, accepted ones excepted: they become deferred rows.

    Returns how many. The run goes on when nothing else pauses it.

    Raises:
        RefusedError: the run is not live.
    """
    with transaction(conn):
        run = _live(conn, ledger, run_id)
        slices.raise_epochs(conn, ledger, run_id)
        rows = conn.execute(
            ledger.q(
                "WITH released AS (DELETE FROM {s}.quarantine WHERE run = %(run)s"
                " AND NOT accepted"
                " RETURNING run, slice, key), again AS ("
                " INSERT INTO {s}.deferred (run, slice, key) SELECT run, slice, key FROM released"
                " ON CONFLICT DO NOTHING), per_slice AS ("
                " SELECT slice, count(*) AS rows FROM released GROUP BY slice)"
                # of one epoch the checkpoint keeps the counts that are further on, and these go
                # back; a slice that is done was left out above
                " UPDATE {s}.slice AS s SET epoch = epoch + 1, holder = NULL, slot = NULL,"
                " lease_until = NULL, quarantined = quarantined - per_slice.rows,"
                " deferred = deferred + per_slice.rows, progress_at = clock_timestamp(),"
                " phase = CASE WHEN phase = 'walk' THEN phase ELSE 'sweep' END"
                " FROM per_slice WHERE s.run = %(run)s AND s.number = per_slice.slice"
                " RETURNING per_slice.rows"
            ),
            {"run": run_id},
        ).fetchall()
        released: int = sum(row[0] for row in rows)
        delete_pauses(conn, ledger, run_id, [PauseCause.QUARANTINE])
        _go_on(conn, ledger, run)
        add_event(conn, ledger, Event.ROWS_RELEASED, run=run_id, caused_by=by, rows=released)
    return released


def accept_quarantine(conn: Connection, ledger: Ledger, run_id: str, *, by: str) -> int:
    """Leave the quarantined rows as they are, for good; the run goes on to its end.

    Returns how many.

    Raises:
        RefusedError: the run is not live.
    """
    with transaction(conn):
        run = _live(conn, ledger, run_id)
        rows = conn.execute(
            ledger.q("UPDATE {s}.quarantine SET accepted = true WHERE run = %s AND NOT accepted"),
            [run_id],
        ).rowcount
        delete_pauses(conn, ledger, run_id, [PauseCause.QUARANTINE])
        _go_on(conn, ledger, run)
        add_event(conn, ledger, Event.ROWS_ACCEPTED, run=run_id, caused_by=by, rows=rows)
    return rows


def _live(conn: Connection, ledger: Ledger, run_id: str) -> Run:
    run = get_run(conn, ledger, run_id, lock=True)
    if not run.run_state.is_live:
        raise RefusedError(
            f"run {run_id} is {run.state}: its quarantine is closed",
            remedy="A failed run is taken up again by `backfill retry`; a cancelled or succeeded"
            " one by a new run.",
        )
    return run
