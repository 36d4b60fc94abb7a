"""Samples the signals in the background of a process: a thread and a connection per database.

A database that does not answer so never keeps another one's runs waiting for their samples. The
threads run in every worker's main process, and in a process that works on a run of its own; the
sampler's lease in each ledger says which of them measures (engine/sampler.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

import structlog

from backfill.clock import SystemClock
from backfill.engine.sampler import Sampler
from backfill.events import Event
from backfill.pg.signals import SignalReader
from backfill.project import Desk, Project

log = structlog.get_logger("backfill")

#: In periods: another process takes over when one has been silent for so long.
LEASE_PERIODS = 2
#: How long the end of a process waits for a measurement that is under way.
END_SECONDS = 3.0


class Sampling:
    """The sampling threads of one process.

    Args:
        databases: their names in the project's settings.
        name: the process's name, unlike all others'.
    """

    def __init__(self, project: Project, databases: Iterable[str], *, name: str) -> None:
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(
                target=_Rounds(project, database, name=name, stopping=self._stopping).run,
                name=f"backfill-sample-{database}",
                daemon=True,  # a server that does not answer keeps no process from ending
            )
            for database in databases
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads, giving the leases back; once they have ended it does nothing."""
        self._stopping.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(END_SECONDS)


class _Rounds:
    """Round after round for one database; everything in here is used by one thread."""

    def __init__(
        self, project: Project, database: str, *, name: str, stopping: threading.Event
    ) -> None:
        settings = project.settings.database(database)
        self._project = project
        self._database = database
        self._stopping = stopping
        self._seconds = project.settings.engine.sample_seconds
        self._desk: Desk | None = None
        self._reader = SignalReader(settings, clock=SystemClock())
        self._sampler = Sampler(
            self._reader, settings.signals, by=name, lease_seconds=LEASE_PERIODS * self._seconds
        )

    def run(self) -> None:
        """Until the process ends."""
        try:
            while not self._stopping.is_set():
                began = time.monotonic()
                self._round()
                self._stopping.wait(max(0.0, began + self._seconds - time.monotonic()))
        finally:
            self._end()

    def _round(self) -> None:
        try:
            if self._desk is None:
                self._desk = self._project.open(self._database)
            self._sampler.round(self._desk.conn, self._desk.ledger)
        except Exception as error:  # noqa: BLE001 - the thread's boundary: whoever does not sample stops runs
            log.warning(Event.SAMPLE_FAILED, database=self._database, error=type(error).__name__)
            self._close()

    def _end(self) -> None:
        try:
            if self._desk is not None:
                self._sampler.resign(self._desk.conn, self._desk.ledger)
        except Exception as error:  # noqa: BLE001 - the lease runs out by itself
            log.debug(Event.SAMPLE_FAILED, database=self._database, error=type(error).__name__)
        self._close()
        self._reader.close()

    def _close(self) -> None:
        if self._desk is not None:
            self._desk.conn.close()
            self._desk = None
