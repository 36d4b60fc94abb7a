"""Sending the messages of a run's slots. The reconciler sends again what is lost."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from celery import Celery
from kombu.exceptions import OperationalError

from backfill.events import Event
from backfill.job import Options
from backfill.model import RunState
from backfill.pg.connect import Connection
from backfill.pg.ledger import Ledger, Run
from backfill.project import Desk, Project
from backfill.worker.sent import Sent, refusal

log = structlog.get_logger("backfill")

WORK = "backfill.work"


def send_slot(
    app: Celery,
    conn: Connection,
    ledger: Ledger,
    run: Run,
    slot: int,
    *,
    database: str,
    queue: str,
) -> Sent:
    """Send one slot's message and note when; what it returns says whether the broker took it.

    The note comes first: if we die between, the reconciler sends it a little later.
    """
    lost = _lost(app)  # not in the except clause: what it raises there hides what was raised
    conn.execute(
        ledger.q(
            "INSERT INTO {s}.slot (run, slot, sent_at) VALUES (%s, %s, clock_timestamp())"
            " ON CONFLICT (run, slot) DO UPDATE SET sent_at = excluded.sent_at"
        ),
        [run.id, slot],
    )
    told = {"job": run.job, "run": run.id, "slot": slot, "database": database}
    try:
        app.send_task(
            WORK,
            kwargs={**told, "ledger": ledger.id},
            kwargsrepr=repr(told),  # what Flower shows: a ledger's uuid says nothing to people
            queue=queue,  # goes before the application's task_routes
            serializer="json",
            retry=False,
            ignore_result=True,
        )
    except lost as error:
        log.warning(Event.MESSAGE_UNSENT, run=run.id, slot=slot, error=type(error).__name__)
        return refusal(error)
    return Sent()


def _lost(app: Celery) -> tuple[type[Exception], ...]:
    """What a broker raises that is away, or takes no message."""
    connection = app.connection_for_write()  # not connected: asked for its kinds of errors
    return (
        OperationalError,
        OSError,
        *connection.connection_errors,
        *connection.channel_errors,
    )


def slots_of(run: Run) -> Sequence[int]:
    """The slots of a run: as many as its concurrency."""
    return range(Options.from_json(run.options).concurrency)


def send_slots(project: Project, desk: Desk, run: Run, slots: Sequence[int] | None = None) -> Sent:
    """Send the messages of a run's slots, of all by default; the first that is not taken says why.

    A paused run queues nothing.

    Raises:
        ProjectError, RefusedError: the project's application cannot be used.
    """
    from backfill.worker.app import app_of

    if run.run_state is RunState.PAUSED:
        return Sent()
    app, queue = app_of(project), project.settings.queue
    sent = [
        send_slot(app, desk.conn, desk.ledger, run, slot, database=desk.database, queue=queue)
        for slot in (slots_of(run) if slots is None else slots)
    ]
    return next((each for each in sent if not each), Sent())
