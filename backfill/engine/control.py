"""What a person changes while runs live: a run's options, its declaration, and the red button.

Each function is one transaction. Lock order: ledger, then run. Who writes a run locks the ledger's
row first, too (FOR SHARE: engine/enqueue.py, `retry`), so a run that is written at the same instant
as the button is pressed either is found by `stop_all`, which waits for it, or finds the button
pressed. Batches lock no run, so the red button does not wait for them: those in hand commit, and
none begins after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from psycopg.types.json import Jsonb

from backfill.engine.lifecycle import START_ALL, add_cause, take_causes
from backfill.errors import RefusedError, UsageError
from backfill.events import Event
from backfill.job import Options
from backfill.model import PauseCause
from backfill.pg.connect import Connection, server_time, transaction
from backfill.pg.control import press, release, set_options, stopped
from backfill.pg.ledger import Ledger, Run, add_event, get_run, live_runs

#: What a run cannot change while it lives: where it works, and what its locks are.
FIXED = frozenset({"database", "lock"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A run after it was tuned.

    Attributes:
        changes: by the option's name: what it was, what it is.
        before: its options before.
        lifted: it was paused for its window, which is open now.
    """

    run: Run
    changes: Mapping[str, tuple[object, object]]
    before: Options
    lifted: bool


def tune(
    conn: Connection, ledger: Ledger, run_id: str, texts: Mapping[str, str], *, by: str
) -> Tuned:
    """Change options of a live run; its workers obey within two seconds (live.py).

    Args:
        texts: by the option's name, as on the command line; `none` takes one away.

    Raises:
        UsageError: an option that does not exist or cannot be changed, or a wrong value.
        RefusedError: the run has ended.
    """
    if fixed := sorted(FIXED & texts.keys()):
        raise UsageError(
            f"the option {fixed[0]} cannot be changed while a run lives",
            remedy="End the run and enqueue a new one with it.",
        )
    with transaction(conn):
        run = get_run(conn, ledger, run_id, lock=True)
        if not run.run_state.is_live:
            raise RefusedError(
                f"run {run_id} is {run.state}: there is nothing to tune",
                remedy=f"`backfill enqueue {run.job}` begins a new one with other options.",
            )
        before = Options.from_json(run.options)
        after = before.replace_from_text(texts)
        was, now = before.to_json(), after.to_json()
        changes = {name: (was[name], now[name]) for name in now if was[name] != now[name]}
        if changes:
            set_options(conn, ledger, run_id, now)
            add_event(
                conn,
                ledger,
                Event.RUN_TUNED,
                run=run_id,
                caused_by=by,
                changes={name: list(change) for name, change in changes.items()},
            )
        # by the server's clock, as for the reconciler
        lifted = after.hours.shut(server_time(conn)) is None and take_causes(
            conn, ledger, run, [PauseCause.WINDOW], by=by
        )
        return Tuned(
            run=get_run(conn, ledger, run_id), changes=changes, before=before, lifted=lifted
        )


def stop_all(conn: Connection, ledger: Ledger, *, reason: str, by: str) -> list[str]:
    """Press the red button: every live run pauses, and so does each new one from its first moment.

    Batches in hand commit. Pressed again, it pauses what is not paused for it, and changes nothing
    else. Returns the runs that it paused.
    """
    with transaction(conn):
        was_pressed = stopped(conn, ledger) is not None
        press(conn, ledger, by=by, reason=reason)
        button = stopped(conn, ledger)
        told = reason if button is None else button.told
        paused = [
            run.id
            for run in live_runs(conn, ledger, lock=True)
            if add_cause(conn, ledger, run, PauseCause.STOP_ALL, reason=told, ends=START_ALL, by=by)
        ]
        if paused or not was_pressed:
            add_event(
                conn,
                ledger,
                Event.STOP_ALL,
                run=None,
                caused_by=by,
                reason=reason,
                runs=len(paused),
            )
    return paused


def start_all(conn: Connection, ledger: Ledger, *, by: str) -> list[str] | None:
    """Release the red button: every run that it paused goes on, unless something else pauses it.

    Returns these runs; None: it was not pressed.
    """
    with transaction(conn):
        was_pressed = stopped(conn, ledger) is not None
        release(conn, ledger)
        freed = [
            run.id
            for run in live_runs(conn, ledger, lock=True)
            if take_causes(conn, ledger, run, [PauseCause.STOP_ALL], by=by)
        ]
        if not was_pressed and not freed:
            return None
        add_event(conn, ledger, Event.START_ALL, run=None, caused_by=by, runs=len(freed))
    return freed


def accept_changes(
    conn: Connection,
    ledger: Ledger,
    run_id: str,
    *,
    fingerprint: str,
    declaration: dict[str, object],
    version: int,
    by: str,
) -> None:
    """Let a run go on with the declaration as it is now."""
    with transaction(conn):
        get_run(conn, ledger, run_id, lock=True)
        conn.execute(
            ledger.q(
                "UPDATE {s}.run SET fingerprint = %s, declaration = %s, job_version = %s"
                " WHERE id = %s"
            ),
            [fingerprint, Jsonb(declaration), version, run_id],
        )
        add_event(
            conn,
            ledger,
            Event.RUN_CHANGED_ACCEPTED,
            run=run_id,
            caused_by=by,
            fingerprint=fingerprint,
        )
