"""Rounds: a thread and a connection for each database, beside a process's work.

A database that does not answer so never keeps another one's runs waiting. What a round does holds
no more than a lease; a round that fails is tried again with the next one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import structlog

from backfill.events import Event
from backfill.project import Desk, Project

log = structlog.get_logger("backfill")

#: How long the end of a process waits for a round that is under way.
END_SECONDS = 3.0


class Duty(Protocol):
    """What is done in each round for one database; used by one thread."""

    def round(self, desk: Desk) -> object:
        """Do it once; whatever it raises, the next round has a new connection."""

    def end(self, desk: Desk | None) -> None:
        """The process ends; None: the database is away."""


class Rounds:
    """The threads of one duty in one process.

    Args:
        name: of the threads.
        databases: their names in the project's settings.
        duty: makes the duty for a database.
        seconds: from the begin of a round to the begin of the next.
        failed: the event that is logged for a round that failed.
    """

    def __init__(
        self,
        project: Project,
        databases: Iterable[str],
        *,
        name: str,
        duty: Callable[[str], Duty],
        seconds: float,
        failed: Event,
    ) -> None:
        self._project = project
        self._seconds = seconds
        self._failed = failed
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._run,
                args=(database, duty(database)),
                name=f"{name}-{database}",
                daemon=True,  # a server that does not answer keeps no process from ending
            )
            for database in databases
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads and their duties; once they have ended it does nothing."""
        self._stopping.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(END_SECONDS)

    def _run(self, database: str, duty: Duty) -> None:
        """Round after round, until the process ends."""
        desk: Desk | None = None
        try:
            while not self._stopping.is_set():
                began = time.monotonic()
                desk = self._round(database, duty, desk)
                self._stopping.wait(max(0.0, began + self._seconds - time.monotonic()))
        finally:
            try:
                duty.end(desk)
            except Exception as error:  # noqa: BLE001 - a lease that is not given back runs out
                log.debug(self._failed, database=database, error=type(error).__name__)
            if desk is not None:
                desk.conn.close()

    def _round(self, database: str, duty: Duty, desk: Desk | None) -> Desk | None:
        """One round; the desk for the next one, None: open another."""
        try:
            if desk is None:
                desk = self._project.open(database)
            duty.round(desk)
        except Exception as error:  # noqa: BLE001 - the thread's boundary: the next round tries again
            log.warning(self._failed, database=database, error=type(error).__name__)
            if desk is not None:
                desk.conn.close()
            return None
        return desk
