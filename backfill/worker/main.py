"""Starts a Celery worker in this process, with the reconciler and more (beside.py) beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog
from celery import signals

from backfill.events import Event
from backfill.project import Project
from backfill.worker import stopping
from backfill.worker.app import make_app
from backfill.worker.beside import Beside
from backfill.worker.notices import Notices
from backfill.worker.reconcile import Reconciler

log = structlog.get_logger("backfill")


def start(project: Project, arguments: Sequence[str]) -> int:
    """Run a worker until it is told to stop; returns its exit code.

    SIGTERM: tasks finish the batch in hand and give their slices back, then the worker exits.

    Args:
        arguments: for `celery worker`.

    Raises:
        ProjectError: the project names no Redis, or a database's variable is not set.
    """
    app = make_app(project)
    for database in project.settings.databases.values():
        _ = database.url  # a missing variable is said now, not in every round
    stopping.clear()
    timers: list[Reconciler | Beside | Notices] = []

    def ready(sender: Any, **_: Any) -> None:
        # after the pool has forked: the timers' connections must not be inherited
        timers[:] = [
            Reconciler(project, app, name=sender.hostname),
            Beside(project, project.settings.databases, name=sender.hostname),
            Notices(project, project.settings.databases, name=sender.hostname),
        ]
        for timer in timers:
            timer.start()
        log.info(Event.WORKER_STARTED, worker=sender.hostname)

    def shutting_down(**_: Any) -> None:
        stopping.request()

    def gone(sender: Any, **_: Any) -> None:
        for timer in timers:
            timer.stop()
        log.info(Event.WORKER_STOPPED, worker=sender.hostname)

    signals.worker_ready.connect(ready, weak=False)
    signals.worker_shutting_down.connect(shutting_down, weak=False)
    signals.worker_shutdown.connect(gone, weak=False)
    try:
        app.worker_main(["worker", *arguments])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0
