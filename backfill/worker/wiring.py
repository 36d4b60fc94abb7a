"""What makes a Celery application one that works on runs: ours (app.py), or a user's own.

The task is registered on it, and a worker of it that takes our queue gets what belongs to each
worker: the reconciler and more (beside.py), started once its pool has forked, since connections
must not be inherited; and the flag by which its tasks end on SIGTERM. Workers of the same
application on other queues are left alone.

Celery's signals belong to a process and not to an application, so each receiver here is connected
once, and asks whose worker it hears of.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol
from weakref import WeakSet

import structlog
from celery import Celery, signals
from kombu.serialization import prepare_accept_content

from backfill.errors import BackfillError, RefusedError
from backfill.events import Event
from backfill.project import Project
from backfill.worker import stopping, tasks
from backfill.worker.benches import Benches
from backfill.worker.beside import Beside
from backfill.worker.broker import mend_channels
from backfill.worker.notices import Notices
from backfill.worker.reconcile import Reconciling

log = structlog.get_logger("backfill")

_ATTRIBUTE = "_backfill_wiring"


class Timer(Protocol):
    """What runs beside a worker's tasks."""

    def start(self) -> None: ...
    def stop(self) -> None: ...


class Wiring:
    """What one application has of ours.

    Attributes:
        beside: what a worker of it has more, started after its pool has forked.
        begin: called first thing in a worker's process, before it writes its log.
    """

    def __init__(self, app: Celery, project: Project, *, begin: Callable[[], None]) -> None:
        self.app = app
        self.project = project
        self.begin = begin
        self.beside: list[Timer] = []
        self.benches = Benches(project)
        self._timers: list[Timer] = []

    def is_for(self, worker: Any) -> bool:
        """True for a worker that takes messages from our queue."""
        return self.project.settings.queue in worker.app.amqp.queues.consume_from

    def check(self) -> None:
        """See before a worker starts that it could work.

        Raises:
            ProjectError: a database's variable is not set; said now, not in every round.
            RefusedError: its application would throw our messages away.
        """
        for database in self.project.settings.databases.values():
            _ = database.url
        accepted: set[str] = prepare_accept_content(self.app.conf.accept_content)  # type: ignore[no-untyped-call]
        if "application/json" not in accepted:
            raise RefusedError(
                "the Celery application accepts no JSON, which is what our messages are",
                remedy='Add "json" to its accept_content.',
            )

    def start(self, name: str) -> None:
        """Start the timers of the worker of that name."""
        project, databases = self.project, self.project.settings.ledgers
        self._timers = [
            Reconciling(project, self.app, databases, name=name),
            Beside(project, databases, name=name),
            Notices(project, databases, name=name),
            *self.beside,
        ]
        for timer in self._timers:
            timer.start()
        log.info(Event.WORKER_STARTED, worker=name)

    def stop(self, name: str) -> None:
        """End them; does nothing where none was started."""
        if not self._timers:
            return
        for timer in self._timers:
            timer.stop()
        self._timers = []
        log.info(Event.WORKER_STOPPED, worker=name)


#: Those of this process; each lives as long as its application.
_wired: WeakSet[Wiring] = WeakSet()


def wire(app: Celery, project: Project, *, begin: Callable[[], None] = lambda: None) -> Wiring:
    """Make an application one that works on the project's runs; a second time does nothing."""
    wiring = wiring_of(app)
    if wiring is None:
        wiring = Wiring(app, project, begin=begin)
        setattr(app, _ATTRIBUTE, wiring)
        _wired.add(wiring)
        tasks.register(app, project, wiring.benches)
    return wiring


def wiring_of(app: Celery) -> Wiring | None:
    """What this application has of ours; None: nothing."""
    found: Wiring | None = app.__dict__.get(_ATTRIBUTE)
    return found


def _beginning(instance: Any, **_: Any) -> None:
    """A worker's main process begins; nothing is logged yet."""
    wiring = wiring_of(instance.app)
    if wiring is not None:
        mend_channels()
        stopping.clear()
        wiring.begin()


def _set_up(instance: Any, **_: Any) -> None:
    """Its queues are known; nothing is forked yet."""
    wiring = wiring_of(instance.app)
    if wiring is None or not wiring.is_for(instance):
        return
    try:
        wiring.check()
    except BackfillError as error:
        # Celery logs what a receiver raises, and goes on; this ends the worker
        with suppress(OSError, AttributeError):  # closed: Python has None for it
            sys.stderr.write(f"error: {error.message}\n{error.remedy}\n".rstrip() + "\n")
        raise SystemExit(int(error.exit_code)) from error


def _ready(sender: Any, **_: Any) -> None:
    wiring = wiring_of(sender.app)
    if wiring is not None and wiring.is_for(sender):
        wiring.start(sender.hostname)


def _shutting_down(**_: Any) -> None:
    stopping.request()


def _gone(sender: Any, **_: Any) -> None:
    wiring = wiring_of(sender.app)
    if wiring is not None:
        wiring.benches.close()  # a pool of threads, or of none, has worked in this process
        wiring.stop(sender.hostname)


def _child_ends(**_: Any) -> None:
    """A process of the pool ends in good order; it may be of any application's worker."""
    for wiring in list(_wired):
        wiring.benches.close()


for _signal, _receiver in (
    (signals.celeryd_init, _beginning),
    (signals.celeryd_after_setup, _set_up),
    (signals.worker_ready, _ready),
    (signals.worker_shutting_down, _shutting_down),
    (signals.worker_shutdown, _gone),
    (signals.worker_process_shutdown, _child_ends),
):
    _signal.connect(_receiver, weak=False)
