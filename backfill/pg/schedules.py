"""Schedules in the ledger: added, listed, and their ticks taken.

Functions that change something are handed a connection with an open transaction, and never commit.
A tick is taken by compare-and-set on the schedule's row (`take_tick`, `take_waiting`), first thing
in the transaction that acts on it. Of two that try, the second waits for the row's lock, finds it
changed and changes nothing; whoever dies before the commit has taken nothing. The lock order is
schedule, then run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, get_args

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from backfill.cron import Cron
from backfill.errors import RefusedError
from backfill.model import LIVE
from backfill.pg.columns import columns_of
from backfill.pg.connect import Connection
from backfill.pg.ledger import Ledger

IfRunning = Literal["skip", "queue"]
IfMissed = Literal["skip", "run"]
IF_RUNNING: tuple[IfRunning, ...] = get_args(IfRunning)
IF_MISSED: tuple[IfMissed, ...] = get_args(IfMissed)


class Outcome(StrEnum):
    """What became of a tick (schema/003_schedule.sql holds the same five)."""

    STARTED = "started"
    WAITING = "waiting"
    SKIPPED = "skipped"
    MISSED = "missed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A schedule as the ledger has it; times are aware.

    Attributes:
        params: values of the job's parameters that were given, as the ledger keeps them.
        options: overrides of the job's options as they were typed, by name.
        cron, zone: when it recurs; None: it ticks once, `at`.
        if_running: what becomes of a tick while the job has a live run.
        if_missed: what becomes of the newest tick that no worker was there for.
        next_at: the next tick; None: there is none any more.
        waiting_tick: a tick that waits for the job's live run to end.
        last_tick, last_outcome, last_reason, last_run: what became of ticks so far.
    """

    name: str
    job: str
    params: Mapping[str, Any]
    options: Mapping[str, str]
    cron: str | None
    zone: str | None
    at: datetime | None
    if_running: str
    if_missed: str
    created_by: str
    created_at: datetime
    next_at: datetime | None
    waiting_tick: datetime | None
    last_tick: datetime | None
    last_outcome: str | None
    last_reason: str
    last_run: str | None

    @property
    def recurrence(self) -> Cron | None:
        """When it recurs; None: it ticks once."""
        return None if self.cron is None or self.zone is None else Cron(self.cron, self.zone)


def insert_schedule(
    conn: Connection,
    ledger: Ledger,
    *,
    name: str,
    job: str,
    params: Mapping[str, Any],
    options: Mapping[str, str],
    cron: Cron | None,
    at: datetime | None,
    if_running: IfRunning,
    if_missed: IfMissed,
    next_at: datetime,
    by: str,
) -> None:
    """Write a new schedule. A transaction must be open.

    Raises:
        RefusedError: there is one of that name.
    """
    try:
        conn.execute(
            ledger.q(
                "INSERT INTO {s}.schedule (name, job, params, options, cron, zone, at, if_running,"
                " if_missed, next_at, created_by) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s,"
                " %s)"
            ),
            [
                name,
                job,
                Jsonb(params),
                Jsonb(options),
                None if cron is None else cron.text,
                None if cron is None else cron.zone,
                at,
                if_running,
                if_missed,
                next_at,
                by,
            ],
        )
    except psycopg.errors.UniqueViolation as error:
        raise RefusedError(
            f"there is a schedule {name} already",
            remedy=f"Choose another name, or `backfill schedule remove {name}` first.",
        ) from error


def delete_schedule(conn: Connection, ledger: Ledger, name: str) -> str | None:
    """Remove a schedule; returns its job, None: there was none. A transaction must be open."""
    row = conn.execute(
        ledger.q("DELETE FROM {s}.schedule WHERE name = %s RETURNING job"), [name]
    ).fetchone()
    return None if row is None else str(row[0])


def list_schedules(conn: Connection, ledger: Ledger) -> list[Schedule]:
    """All schedules, by name."""
    with conn.cursor(row_factory=class_row(Schedule)) as cursor:
        return cursor.execute(
            ledger.q(f"SELECT {columns_of(Schedule)} FROM {{s}}.schedule ORDER BY name")
        ).fetchall()


def due_schedules(conn: Connection, ledger: Ledger, now: datetime) -> list[Schedule]:
    """Those with a tick that is due or waits, the longest due first. Reads without locks."""
    with conn.cursor(row_factory=class_row(Schedule)) as cursor:
        return cursor.execute(
            ledger.q(
                f"SELECT {columns_of(Schedule)}"
                " FROM {s}.schedule WHERE next_at <= %s OR waiting_tick IS NOT NULL"
                " ORDER BY least(next_at, waiting_tick), name"
            ),
            [now],
        ).fetchall()


def take_tick(
    conn: Connection,
    ledger: Ledger,
    schedule: Schedule,
    *,
    next_at: datetime | None,
    tick: datetime,
    outcome: Outcome,
    reason: str,
    run: str | None = None,
) -> bool:
    """Say what becomes of the tick that is due; False: another was first, or it is removed.

    A transaction must be open; from now on it holds the schedule's row.
    """
    return _record(
        conn,
        ledger,
        schedule,
        {"next_at": next_at, "tick": tick, "outcome": outcome, "reason": reason, "run": run},
    )


def take_waiting(
    conn: Connection,
    ledger: Ledger,
    schedule: Schedule,
    *,
    outcome: Outcome,
    reason: str,
    run: str | None = None,
) -> bool:
    """The same for the tick that waits."""
    waiting = {"next_at": schedule.next_at, "tick": schedule.waiting_tick}
    return _record(
        conn, ledger, schedule, {**waiting, "outcome": outcome, "reason": reason, "run": run}
    )


def _record(
    conn: Connection, ledger: Ledger, schedule: Schedule, values: Mapping[str, Any]
) -> bool:
    """Compare both ticks, so that whoever read an older row changes nothing."""
    return (
        conn.execute(
            ledger.q(
                "UPDATE {s}.schedule SET next_at = %(next_at)s, last_tick = %(tick)s,"
                " last_outcome = %(outcome)s, last_reason = %(reason)s,"
                " last_run = coalesce(%(run)s, last_run),"
                # a tick that begins to wait is kept; one that waited is settled by any outcome of
                # its own, and by none of another tick
                " waiting_tick = CASE WHEN %(outcome)s = 'waiting' THEN %(tick)s"
                " WHEN waiting_tick = %(tick)s THEN NULL ELSE waiting_tick END"
                " WHERE name = %(name)s AND created_at = %(created_at)s"
                " AND next_at IS NOT DISTINCT FROM %(was_next)s"
                " AND waiting_tick IS NOT DISTINCT FROM %(was_waiting)s"
            ),
            {
                **values,
                "outcome": str(values["outcome"]),
                "name": schedule.name,
                "created_at": schedule.created_at,
                "was_next": schedule.next_at,
                "was_waiting": schedule.waiting_tick,
            },
        ).rowcount
        == 1
    )


def live_run_of(conn: Connection, ledger: Ledger, job: str) -> tuple[str, str] | None:
    """The job's live run and its state; None: it has none. There is at most one (I1)."""
    row = conn.execute(
        ledger.q("SELECT id, state FROM {s}.run WHERE job = %s AND state = ANY(%s)"),
        [job, [str(state) for state in LIVE]],
    ).fetchone()
    return None if row is None else (str(row[0]), str(row[1]))
