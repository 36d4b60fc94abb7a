"""What becomes of a schedule's ticks: each starts one run, however many workers look.

Whoever leads the reconciler calls `tick` in each round. A tick is taken in the transaction that
writes its run (pg/schedules.py says how), so that dying anywhere in here leaves it due, and two
leaders at once start one run.

1. Of several ticks that are due, the newest alone counts: nothing is made up for.
2. A tick that was due longer ago than GRACE_SECONDS was missed: nobody was there. Its schedule's
   rule says whether it is skipped, or started late.
3. While the job has a live run, a tick is skipped, or waits for that run's end. One tick waits at
   most; later ones are skipped. One that waits is never missed.
4. What cannot be enqueued has the outcome `failed` and its reason, and is not tried again. Errors
   that pass (a lock, a time-out) are tried again within GRACE_SECONDS; while the database is away
   nothing is decided.
"""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, islice
from typing import cast

import psycopg

from backfill.cron import Cron
from backfill.engine.enqueue import Prepared, prepare, write_run
from backfill.errors import (
    BackfillError,
    LockedOutError,
    RefusedError,
    UnreachableError,
    UsageError,
)
from backfill.events import Event
from backfill.job import Options
from backfill.job.declaration import Declaration
from backfill.pg.connect import Connection, server_time, transaction
from backfill.pg.ledger import Ledger, add_event
from backfill.pg.schedules import (
    IfMissed,
    IfRunning,
    Outcome,
    Schedule,
    delete_schedule,
    due_schedules,
    insert_schedule,
    live_run_of,
    take_tick,
    take_waiting,
)

#: A tick that was due longer ago was missed: a leader looks every two seconds, and one that was
#: killed is followed within fifteen.
GRACE_SECONDS = 60.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
#: So much of an error's text is kept as the reason.
_REASON_CHARACTERS = 300


def add(
    conn: Connection,
    ledger: Ledger,
    declaration: Declaration,
    *,
    name: str,
    params: Mapping[str, object],
    options: Mapping[str, str],
    when: Cron | datetime,
    if_running: IfRunning,
    if_missed: IfMissed,
    by: str,
) -> datetime:
    """Add a schedule; returns its first tick.

    Args:
        params: of the job, those that were given.
        options: overrides as they are typed; what they do not name is the job's at each tick.

    Raises:
        UsageError: a name, parameter, option or instant that cannot be.
        RefusedError: there is a schedule of that name.
    """
    if _NAME.fullmatch(name) is None:
        raise UsageError(
            f"{name!r} is no name for a schedule",
            remedy="Letters, digits, dots, dashes and underscores, at most 63: nightly-emails.",
        )
    declaration.complete_params(params)
    chosen = declaration.options.replace_from_text(options)
    now = server_time(conn)
    first = next(when.after(now), None) if isinstance(when, Cron) else when
    if first is None or first <= now:
        raise UsageError(f"{when} has passed", remedy="Name an instant to come.")
    until = chosen.hours.until
    if until is not None and until <= first:
        raise UsageError(
            f"until {until.isoformat()} comes before the first tick, {first.isoformat()}: each run"
            " would pause at once",
            remedy="Name a later one with --set until=INSTANT, or none.",
        )
    with transaction(conn):
        insert_schedule(
            conn,
            ledger,
            name=name,
            job=declaration.name,
            params=declaration.params_to_json(params),
            options=options,
            cron=when if isinstance(when, Cron) else None,
            at=None if isinstance(when, Cron) else when,
            if_running=if_running,
            if_missed=if_missed,
            next_at=first,
            by=by,
        )
        add_event(
            conn,
            ledger,
            Event.SCHEDULE_ADDED,
            run=None,
            caused_by=by,
            schedule=name,
            job=declaration.name,
        )
    return first


def remove(conn: Connection, ledger: Ledger, name: str, *, by: str) -> bool:
    """Remove a schedule; its runs stay. False: there is none of that name."""
    with transaction(conn):
        job = delete_schedule(conn, ledger, name)
        if job is not None:
            add_event(
                conn,
                ledger,
                Event.SCHEDULE_REMOVED,
                run=None,
                caused_by=by,
                schedule=name,
                job=job,
            )
    return job is not None


def upcoming(
    schedules: Sequence[Schedule], now: datetime, *, count: int
) -> list[tuple[datetime, Schedule]]:
    """The next ticks of these schedules, the earliest first; those due already among them."""

    def ticks(schedule: Schedule) -> Iterator[tuple[datetime, str, Schedule]]:
        if schedule.next_at is None:
            return
        cron = schedule.recurrence
        later = iter(()) if cron is None else cron.after(max(now, schedule.next_at))
        for tick in chain([schedule.next_at], later):
            yield tick, schedule.name, schedule

    merged = heapq.merge(*map(ticks, schedules), key=lambda found: found[:2])
    return [(tick, schedule) for tick, _, schedule in islice(merged, count)]


# --------------------------------------------------------------------------------- a leader's round


#: Gives a connection to the source's database, where it is not the one that is written.
SourceOf = Callable[[Declaration, Options], AbstractContextManager[Connection | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one look at the schedules needs.

    Attributes:
        database: the ledger's name in the settings.
        source: as Project.source.
        declare: a job by its name; imports the project's modules when it is first asked.
        now: by the database's clock.
    """

    conn: Connection
    ledger: Ledger
    database: str
    source: SourceOf
    declare: Callable[[str], Declaration]
    environ: Mapping[str, str]
    by: str
    now: datetime


#: Takes a tick with this outcome, reason and run; False: another was first.
Take = Callable[[Outcome, str, str | None], bool]


def tick(
    conn: Connection,
    ledger: Ledger,
    *,
    database: str,
    declare: Callable[[str], Declaration],
    by: str,
    environ: Mapping[str, str] = os.environ,
    now: datetime | None = None,
    source: SourceOf = lambda *_: nullcontext(),
) -> list[str]:
    """Take every tick that is due; returns the runs that were started. No transaction may be open.

    Args:
        now: for tests; None: by the database's clock.

    Raises:
        psycopg.Error, UnreachableError: the database is away; what was not taken stays due.
    """
    this = Round(
        conn=conn,
        ledger=ledger,
        database=database,
        source=source,
        declare=declare,
        environ=environ,
        by=by,
        now=now or server_time(conn),
    )
    started = []
    for schedule in due_schedules(conn, ledger, this.now):
        waiting = schedule.waiting_tick is not None
        live = live_run_of(conn, ledger, schedule.job)
        if waiting and live is None:
            # its row changes: a further tick that is due is seen in the next round
            started.append(_start_waiting(this, schedule))
        elif schedule.next_at is not None and schedule.next_at <= this.now:
            started.append(_due(this, schedule, live))
    return [run for run in started if run is not None]


def _start_waiting(this: Round, schedule: Schedule) -> str | None:
    def take(outcome: Outcome, reason: str, run: str | None) -> bool:
        return take_waiting(
            this.conn, this.ledger, schedule, outcome=outcome, reason=reason, run=run
        )

    tick = cast("datetime", schedule.waiting_tick)
    return _start(this, schedule, tick, take, reason="it waited for the run before to end")


def _due(this: Round, schedule: Schedule, live: tuple[str, str] | None) -> str | None:
    due = cast("datetime", schedule.next_at)
    try:
        cron = schedule.recurrence
    except UsageError as error:  # this machine's tz database does not have the zone
        cron, unreadable = None, error.message
    else:
        unreadable = ""
    newest = due if cron is None else cron.newest(due, this.now) or due
    next_at = None if cron is None else next(cron.after(this.now), None)

    def take(outcome: Outcome, reason: str, run: str | None) -> bool:
        return take_tick(
            this.conn,
            this.ledger,
            schedule,
            next_at=next_at,
            tick=newest,
            outcome=outcome,
            reason=reason,
            run=run,
        )

    if unreadable:
        _settle(this, schedule, newest, take, outcome=Outcome.FAILED, reason=unreadable)
        return None
    late = this.now - newest
    is_missed = late > timedelta(seconds=GRACE_SECONDS)
    told = f"no worker was there; found {late.total_seconds():.0f} s late" if is_missed else ""
    if is_missed and schedule.if_missed == "skip":
        _settle(this, schedule, newest, take, outcome=Outcome.MISSED, reason=told)
        return None
    if live is not None:
        outcome, reason = _busy(schedule, *live)
        _settle(this, schedule, newest, take, outcome=outcome, reason=reason)
        return None
    return _start(this, schedule, newest, take, reason=told)


def _busy(schedule: Schedule, run: str, state: str) -> tuple[Outcome, str]:
    if schedule.if_running == "skip":
        return Outcome.SKIPPED, f"{run} is still live ({state})"
    if schedule.waiting_tick is not None:
        return Outcome.SKIPPED, f"another tick waits already for {run} ({state}) to end"
    return Outcome.WAITING, f"it waits for {run} ({state}) to end"


def _start(
    this: Round, schedule: Schedule, tick: datetime, take: Take, *, reason: str
) -> str | None:
    """Write the tick's run; what is in the way for good is its outcome."""
    try:
        prepared = _prepare(this, schedule)
        with transaction(this.conn):
            if not take(Outcome.STARTED, reason, prepared.id):
                return None
            write_run(
                this.conn,
                this.ledger,
                prepared,
                executor="celery",
                by=f"schedule {schedule.name}",
            )
            _tell(this, schedule, tick, Outcome.STARTED, reason, run=prepared.id)
    except psycopg.errors.UniqueViolation:
        # somebody enqueued the job meanwhile: the tick stays due, and the next round sees that run
        return None
    except UnreachableError:
        raise
    except (psycopg.OperationalError, LockedOutError) as error:  # it may pass
        if this.conn.closed:
            raise
        if this.now - tick > timedelta(seconds=GRACE_SECONDS):
            _settle(this, schedule, tick, take, outcome=Outcome.FAILED, reason=_told(error))
        return None
    # whatever the user's modules, setup or job raise: it must not end the reconciler
    except (Exception, SystemExit) as error:
        if this.conn.closed:
            raise
        _settle(this, schedule, tick, take, outcome=Outcome.FAILED, reason=_told(error))
        return None
    return prepared.id


def _prepare(this: Round, schedule: Schedule) -> Prepared:
    declaration = this.declare(schedule.job)
    options = declaration.options.replace_from_text(schedule.options)
    home = declaration.home(options)
    if home != this.database:
        raise RefusedError(
            f"job {schedule.job} works on database {home} now, and this schedule is"
            f" kept in {this.database}"
        )
    with this.source(declaration, options) as source_conn:
        return prepare(
            this.conn,
            declaration,
            params=declaration.params_from_json(schedule.params),
            options=options,
            environ=this.environ,
            source_conn=source_conn,
        )


def _settle(
    this: Round, schedule: Schedule, tick: datetime, take: Take, *, outcome: Outcome, reason: str
) -> None:
    """Take a tick without a run."""
    with transaction(this.conn):
        if take(outcome, reason, None):
            _tell(this, schedule, tick, outcome, reason)


def _tell(
    this: Round,
    schedule: Schedule,
    tick: datetime,
    outcome: Outcome,
    reason: str,
    *,
    run: str | None = None,
) -> None:
    add_event(
        this.conn,
        this.ledger,
        Event.SCHEDULE_TICKED,
        run=run,
        caused_by=this.by,
        schedule=schedule.name,
        tick=tick.isoformat(),
        outcome=str(outcome),
        reason=reason,
    )


def _told(error: BaseException) -> str:
    if isinstance(error, BackfillError):
        return error.message
    if isinstance(error, psycopg.Error):  # its text may quote rows
        return f"PostgreSQL: {type(error).__name__} ({error.sqlstate})"
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"[:_REASON_CHARACTERS]
