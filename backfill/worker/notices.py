"""Sends messages to people in the background of a process.

It does so in every worker's main process, beside the reconciler, and in a process that works
on a run of its own. The notifier's lease in each ledger says which of them looks for messages; the
others only ask for the lease, and seldom.

1. The work never waits for a message, and no transaction is open while one is under way (I5).
2. At least once. Events are marked and notices written in one statement; a notice is taken by a
   lease (pg/notices.py), sent, and marked as sent. A process that dies before sending, or between
   sending and marking, leaves a lease that runs out, and the message is sent (again) by another.
3. Once in the normal case: a notice is one process's for SENDING_SECONDS, longer than an attempt.
4. A channel that does not answer keeps no other waiting: it is left alone until the next round.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Self

import structlog

from backfill.engine.bench import Probe, no_probe
from backfill.errors import BackfillError, ProjectError, UsageError
from backfill.events import Event
from backfill.pg import notices
from backfill.pg.notices import Notice, Wish
from backfill.project import Desk, Project
from backfill.watch.deliver import SEND_SECONDS, UndeliveredError, deliver
from backfill.watch.message import EVENTS, compose
from backfill.watch.words import told_url
from backfill.worker.rounds import END_SECONDS, Rounds

log = structlog.get_logger("backfill")

#: Between two looks for messages, by who has the notifier's lease, and between two requests for it.
POLL_SECONDS = 2.0
FOLLOW_SECONDS = 10.0
#: Another process takes over when one has been silent for so long.
LEASE_SECONDS = 30.0
#: A notice that was taken so long ago is sent again.
SENDING_SECONDS = 30.0
#: How long the end of a process goes on sending what its run has caused.
FINISH_SECONDS = 5.0
#: Between two looks for notices of channels that are gone.
STRANGERS_SECONDS = 3600.0


class Notices(Rounds):
    """The threads of one process that send messages.

    Enter it around work whose messages are to be sent before the process ends; a worker starts and
    stops it.

    Args:
        databases: their names in the project's settings.
        name: the process's name, unlike all others'.
    """

    def __init__(self, project: Project, databases: Iterable[str], *, name: str) -> None:
        self._finishing = threading.Event()
        super().__init__(
            project,
            databases,
            name="backfill-notify",
            duty=lambda database: _Notifying(
                project,
                database,
                name=name,
                stopping=self._stopping.is_set,
                finishing=self._finishing.is_set,
            ),
            seconds=POLL_SECONDS,
            failed=Event.OUTBOX_FAILED,
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or issubclass(kind, Exception):
            self.finish()
        else:
            self._stopping.set()  # somebody leaves at once: what waits is another process's

    def finish(self) -> None:
        """Send what waits, for a few seconds at most, and end: there may be no other process."""
        self._finishing.set()
        self._stopping.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(FINISH_SECONDS + END_SECONDS)


class _Notifying:
    """The notifier of one database, in the rounds of one thread."""

    def __init__(
        self,
        project: Project,
        database: str,
        *,
        name: str,
        stopping: Callable[[], bool],
        finishing: Callable[[], bool],
    ) -> None:
        self._project = project
        self._database = database
        self._name = name
        self._finishing = finishing
        self._notifier = Notifier(project, stopping=stopping)
        self._ask_at = float("-inf")

    def round(self, desk: Desk) -> None:
        """Look for messages, if the lease is ours; else ask for it now and then."""
        now = time.monotonic()
        if now >= self._ask_at and not self._notifier.round(desk, by=self._name):
            self._ask_at = now + FOLLOW_SECONDS

    def end(self, desk: Desk | None) -> None:
        """Send what waits, where the process is to, and give the lease back."""
        if self._finishing() and desk is None:  # it ended before the first round, or lost it
            with closing((desk := self._project.open(self._database)).conn):
                self._end(desk)
        elif desk is not None:
            self._end(desk)

    def _end(self, desk: Desk) -> None:
        if self._finishing():
            # without the lease: whoever has it may be at the point of ending, too
            self._notifier.gather(desk)
            self._notifier.send(desk, seconds=FINISH_SECONDS)
        notices.drop_lease(desk.conn, desk.ledger, by=self._name)


class Notifier:
    """Marks events and sends messages; used by one thread.

    Args:
        stopping: asked by a round between two messages.
        probe: is told of the points at which a process may die: `notice taken`, `message sent`.
    """

    def __init__(
        self,
        project: Project,
        *,
        stopping: Callable[[], bool] = lambda: False,
        probe: Probe = no_probe,
        sending_seconds: float = SENDING_SECONDS,
    ) -> None:
        self._project = project
        self._channels = project.settings.channels
        self._wishes = [
            Wish(channel=channel.name, event=event, cause=cause)
            for channel in self._channels.values()
            for (event, cause), kind in EVENTS.items()
            if kind in channel.on
        ]
        self._stopping = stopping
        self._probe = probe
        self._sending_seconds = sending_seconds
        self._tidied_at = float("-inf")

    def round(self, desk: Desk, *, by: str) -> bool:
        """Look for messages and send them; False: another process does."""
        waiting = notices.take_lease(desk.conn, desk.ledger, by=by, seconds=LEASE_SECONDS)
        if waiting is None:
            return False
        if waiting.events:
            self.gather(desk)
        if self._channels and (waiting.events or waiting.notices):
            self.send(desk, seconds=LEASE_SECONDS / 2, stopping=self._stopping)
        now = time.monotonic()
        if waiting.notices and now - self._tidied_at > STRANGERS_SECONDS:
            self._tidied_at = now
            notices.give_up_strangers(desk.conn, desk.ledger, list(self._channels))
        return True

    def gather(self, desk: Desk) -> None:
        """Mark what has happened, and write a notice for each channel that wants to know it."""
        while notices.gather(desk.conn, desk.ledger, self._wishes):
            pass

    def send(
        self, desk: Desk, *, seconds: float, stopping: Callable[[], bool] = lambda: False
    ) -> None:
        """Send what is due, beginning none after so many seconds."""
        until = time.monotonic() + seconds
        answering = set(self._channels)
        while answering and not stopping() and (left := until - time.monotonic()) > 0:
            notice = notices.take(
                desk.conn, desk.ledger, sorted(answering), lease_seconds=self._sending_seconds
            )
            if notice is None:
                return
            if not self._send(desk, notice, seconds=min(left, SEND_SECONDS)):
                answering.remove(notice.channel)

    def _send(self, desk: Desk, notice: Notice, *, seconds: float) -> bool:
        """Send one message and say so; False: its channel does not take it."""
        self._probe("notice taken")
        try:
            message = compose(
                desk.conn, desk.ledger, notice, database=told_url(desk.database, desk.url)
            )
            deliver(
                self._channels[notice.channel],
                message,
                environ=self._project.environ,
                folder=self._project.settings.project,
                seconds=seconds,
            )
        except (UndeliveredError, UsageError, ProjectError) as error:
            self._tell_unsent(desk, notice, error)
            return False
        self._probe("message sent")
        notices.mark_sent(desk.conn, desk.ledger, notice)
        log.info(Event.NOTICE_SENT, run=notice.run, channel=notice.channel, kind=str(message.kind))
        return True

    def _tell_unsent(self, desk: Desk, notice: Notice, error: Exception) -> None:
        told = error.message if isinstance(error, BackfillError) else str(error)
        given_up = notices.mark_unsent(
            desk.conn,
            desk.ledger,
            notice,
            told,
            wait_seconds=notices.wait_seconds(notice.attempts),
        )
        kind = EVENTS.get((notice.name, str(notice.detail.get("cause", ""))))
        (log.error if given_up else log.warning)(
            Event.NOTICE_FAILED if given_up else Event.NOTICE_UNSENT,
            run=notice.run,
            channel=notice.channel,
            kind=None if kind is None else str(kind),
            error=told,
            attempt=notice.attempts,
        )
