"""Starts a Celery worker in this process, with the reconciler and more (beside.py) beside it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

import structlog
from celery import signals
from celery.apps import worker as celery_worker
from celery.utils.log import get_multiprocessing_logger

from backfill.errors import UsageError
from backfill.events import Event
from backfill.project import Project
from backfill.watch import logs
from backfill.worker import stopping
from backfill.worker.app import make_app
from backfill.worker.beside import Beside
from backfill.worker.broker import mend_channels
from backfill.worker.metrics import MetricsServer
from backfill.worker.notices import Notices
from backfill.worker.reconcile import Reconciler

log = structlog.get_logger("backfill")


def start(
    project: Project,
    arguments: Sequence[str],
    *,
    metrics_address: str = "127.0.0.1",
    metrics_port: int | None = None,
) -> int:
    """Run a worker until it is told to stop; returns its exit code.

    SIGTERM: tasks finish the batch in hand and give their slices back, then the worker exits.

    Args:
        arguments: for `celery worker`.
        metrics_port: where metrics can be read; None: nowhere.

    Raises:
        ProjectError: the project names no Redis, or a database's variable is not set.
        RefusedError, UsageError: metrics cannot be told there.
    """
    for database in project.settings.databases.values():
        _ = database.url  # a missing variable is said now, not in every round
    app = make_app(project)
    _speak_as_we_do()
    mend_channels()
    stopping.clear()
    told: list[MetricsServer] = []
    if metrics_port is not None:
        told.append(MetricsServer(project, address=metrics_address, port=metrics_port))
    timers: list[Reconciler | Beside | Notices | MetricsServer] = []

    def ready(sender: Any, **_: Any) -> None:
        # after the pool has forked: the timers' connections must not be inherited
        timers[:] = [
            Reconciler(project, app, name=sender.hostname),
            Beside(project, project.settings.ledgers, name=sender.hostname),
            Notices(project, project.settings.ledgers, name=sender.hostname),
            *told,
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
        # its banner is for a terminal: elsewhere every line is one of the log
        app.worker_main([*([] if sys.stdout.isatty() else ["--quiet"]), "worker", *arguments])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0


def _speak_as_we_do() -> None:
    """Let Celery's log come out as ours does (watch/logs.py), before it writes its first line."""
    # what its pool tells: without a handler of its own it would be plain text
    pool = get_multiprocessing_logger()
    logs.take_over(logging.getLogger(), logging.WARNING)
    logs.take_over(pool, logging.ERROR)
    logging.captureWarnings(True)

    def set_up(loglevel: int, logfile: str | None, **_: Any) -> None:
        if logfile is not None:
            raise UsageError(
                "a worker writes its log to standard error, and to no --logfile",
                remedy="Redirect standard error.",
            )
        logging.getLogger().setLevel(loglevel)

    # whoever is connected here keeps Celery from setting up handlers of its own
    signals.setup_logging.connect(set_up, weak=False)
    if not sys.stdout.isatty():
        # "Warm shutdown" and the like, written past every logger; the log has worker.stopped
        celery_worker.safe_say = lambda *_: None
