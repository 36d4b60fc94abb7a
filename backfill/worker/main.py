"""Starts a Celery worker in this process, with the reconciler and more (beside.py) beside it."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from backfill.project import Project
from backfill.streams import is_terminal
from backfill.worker.app import app_of
from backfill.worker.metrics import MetricsServer
from backfill.worker.speaking import speak_as_we_do
from backfill.worker.wiring import wire


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
    app = app_of(project)
    wiring = wire(app, project)
    speak_as_we_do()
    wiring.check()
    if metrics_port is not None:
        wiring.beside.append(MetricsServer(project, address=metrics_address, port=metrics_port))
    if project.settings.celery_app is not None:  # whose default is another queue
        arguments = [f"--queues={project.settings.queue}", *arguments]
    try:
        # its banner is for a terminal: elsewhere every line is one of the log
        app.worker_main([*([] if is_terminal(sys.stdout) else ["--quiet"]), "worker", *arguments])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0
