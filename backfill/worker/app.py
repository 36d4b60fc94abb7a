"""Our Celery application.

Messages are hints (I3): acknowledged late, sent again while there is work, and judged by the
ledger. So every setting below may differ in a user's own deployment without harm to the data; what
a task itself needs is set on the task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import Celery

from backfill.project import Project
from backfill.worker import tasks

if TYPE_CHECKING:
    celery_app: Celery

#: Seconds after which Redis delivers an unacknowledged message again; far above a task's budget,
#: so that a running task is not delivered twice. The reconciler does not wait for it.
VISIBILITY_SECONDS = 120


def make_app(project: Project) -> Celery:
    """The application of a project: its broker, its queue, our tasks.

    Raises:
        ProjectError: the project names no Redis.
    """
    settings = project.settings
    app = Celery("backfill", broker=settings.require_redis_url())
    app.conf.update(
        task_default_queue=settings.queue,
        task_serializer="json",
        accept_content=["json"],
        event_serializer="json",
        task_ignore_result=True,
        worker_send_task_events=True,
        task_send_sent_event=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,  # our lines are whole: within Celery's they are no JSON
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "visibility_timeout": VISIBILITY_SECONDS,
            "unacked_restore_interval": 5,
            "unacked_restore_throttle": 1,
            "socket_connect_timeout": 2,
            "socket_timeout": 10,
            "socket_keepalive": True,
            "health_check_interval": 5,
            # for sending: by default it waits for six seconds when Redis is away, in which the
            # slot's work stands still; the worker's own connection is tried again for ever
            "max_retries": 1,
            "interval_start": 0,
            "interval_step": 0.1,
        },
    )
    tasks.register(app, project)
    return app


def __getattr__(name: str) -> Any:
    """`celery_app`, for `celery -A backfill.worker.app:celery_app`: made when it is asked for."""
    if name == "celery_app":
        app = make_app(Project.find())
        globals()["celery_app"] = app
        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
