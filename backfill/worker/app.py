"""The Celery application that a project's messages are sent with, and its workers are of: ours.

Or a user's own, which the settings name, or which this process has made (backfill/celery.py).

Messages are hints (I3): acknowledged late, sent again while there is work, and judged by the
ledger. So every setting below may differ in a user's own deployment without harm to the data; what
a task itself needs is set on the task.
"""

from __future__ import annotations

from functools import lru_cache
from ssl import CERT_NONE, CERT_REQUIRED
from typing import TYPE_CHECKING, Any

import structlog
from celery import Celery

from backfill.errors import ProjectError, RefusedError
from backfill.job.registry import find_object
from backfill.project import Project
from backfill.redis_url import broker_url
from backfill.watch import logs
from backfill.worker.installed import acting_for, installed
from backfill.worker.speaking import speak_as_we_do
from backfill.worker.wiring import wire

if TYPE_CHECKING:
    celery_app: Celery

#: Seconds after which Redis delivers an unacknowledged message again; far above a task's budget,
#: so that a running task is not delivered twice. The reconciler does not wait for it.
VISIBILITY_SECONDS = 120


def app_of(project: Project) -> Celery:
    """The application of a project: its own, else the one of this process, else ours.

    Raises:
        ProjectError: its own cannot be imported, or has a broker that Celery does not know; or the
            project names no Redis.
        RefusedError: its own runs tasks at once instead of sending them, or has not our queue.
    """
    named, made = project.settings.celery_app, installed()
    if named is not None:
        app = _import(named, project)
    elif made is not None:
        app = made.app
    else:
        return make_app(project)
    if app.conf.task_always_eager:
        raise RefusedError(
            "the Celery application has task_always_eager, so it sends no messages to workers",
            remedy="In tests, work on a run with `backfill.run` or `backfill.testing`.",
        )
    _check_broker(app)
    queue = project.settings.queue
    try:
        app.amqp.queues[queue]
    except KeyError as error:
        raise RefusedError(
            f"the Celery application has no queue {queue}, and makes none that is missing",
            remedy=f'Add Queue("{queue}") to its task_queues, or allow task_create_missing_queues.',
        ) from error
    return app


def _check_broker(app: Celery) -> None:
    """See that Celery has a client for the broker's URL; connects to nothing.

    Raises:
        ProjectError: it has none.
    """
    try:
        with app.connection_for_write() as connection:
            _ = connection.connection_errors  # finds the client
    except (ImportError, LookupError, AttributeError, TypeError, ValueError) as error:
        # a parser's own words quote the URL
        why = error.args[0] if isinstance(error, ImportError | LookupError) and error.args else ""
        raise ProjectError(
            "the Celery application's broker cannot be used:"
            f" {type(error).__name__}{f': {why}' if why else ''}",
            remedy="Correct its broker_url; for the socket of a Redis write"
            " redis+socket:///run/redis.sock.",
        ) from error


def checks_certificates(app: Celery) -> bool:
    """False where the broker is asked for TLS, and nobody checks who answers: Celery's default for
    `rediss://`. Connects to nothing.
    """
    with app.connection_for_write() as connection:
        asked = connection.ssl
    if not isinstance(asked, dict):
        return True
    return asked.get("ssl_cert_reqs", CERT_REQUIRED) not in {CERT_NONE, None, "none", "CERT_NONE"}


def _import(named: str, project: Project) -> Celery:
    with acting_for(project):  # whoever installs us while it is imported does so for this project
        app = find_object(named, project=project.settings.project, what="celery_app")
    if not isinstance(app, Celery):
        raise ProjectError(
            f"celery_app = {named!r} is a {type(app).__name__} and no Celery application",
            remedy='Write celery_app = "myapp.celery:app".',
        )
    wire(app, project)
    return app


@lru_cache(maxsize=4)  # each has connections to its broker
def make_app(project: Project) -> Celery:
    """Our application for a project: its broker, its queue, our task.

    Raises:
        ProjectError: the project names no Redis.
    """
    settings = project.settings
    app = Celery("backfill", broker=broker_url(settings.require_redis_url()))
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
        # a Redis that is full refuses the note that a message was taken: by default, a worker's end
        broker_channel_error_retry=True,
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
    wire(app, project, begin=lambda: _speak(project))
    return app


def _speak(project: Project) -> None:
    """A worker of ours that was not started by `backfill worker` speaks as one that was."""
    if not structlog.is_configured():
        logs.configure(project.settings.log_format, project.settings.log_level)
        speak_as_we_do()


def __getattr__(name: str) -> Any:
    """`celery_app`, for `celery -A backfill.worker.app:celery_app`: made when it is asked for."""
    if name == "celery_app":
        app = make_app(Project.find())
        globals()["celery_app"] = app
        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
