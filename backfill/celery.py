"""Runs on a Celery application of your own, beside your tasks.

# myapp/celery.py
from celery import Celery
from backfill.celery import install

app = Celery("myapp", broker="amqp://…")
install(app)

$ celery -A myapp worker -Q celery,backfill
"""

from __future__ import annotations

from pathlib import Path

import structlog
from celery import Celery

from backfill.project import Project
from backfill.watch.logs import hand_on
from backfill.worker.installed import project_here, remember
from backfill.worker.wiring import wire

__all__ = ["install"]


def install(app: Celery, *, project: str | Path | None = None) -> None:
    """Register our task on an application, and let `backfill.enqueue` send with it.

    A worker of it that takes the queue `backfill` (a setting) works on runs as `backfill worker`
    does. Its broker carries the messages; the checkpoint stays in the Redis of our settings. What
    the task needs is set on the task and on each message, so it holds under any settings of the
    application: acknowledged late, JSON, its queue, no result, no retry, no time limit.

    It connects to nothing. Our events go to the standard library's logger `backfill`, unless the
    process has configured structlog. A second time on the same application it does nothing.

    Args:
        project: the project's folder; None: BACKFILL_PROJECT, else the nearest one from the
            current folder upward.

    Raises:
        ProjectError: the project's settings cannot be used.
    """
    found = project_here() if project is None else Project.find(Path(project))
    if not structlog.is_configured():
        hand_on()
    remember(app, wire(app, found).project)
