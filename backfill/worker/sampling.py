"""Samples the signals in the background of a process.

It does so in every worker's main process, and in a process that works on a run of its own; the
sampler's lease in each ledger says which of them measures (engine/sampler.py).
"""

from __future__ import annotations

from collections.abc import Iterable

from backfill.clock import SystemClock
from backfill.engine.sampler import Sampler
from backfill.events import Event
from backfill.pg.signals import SignalReader
from backfill.project import Desk, Project
from backfill.worker.rounds import Rounds

#: In periods: another process takes over when one has been silent for so long.
LEASE_PERIODS = 2


class Sampling(Rounds):
    """The sampling threads of one process.

    Args:
        databases: their names in the project's settings.
        name: the process's name, unlike all others'.
    """

    def __init__(self, project: Project, databases: Iterable[str], *, name: str) -> None:
        super().__init__(
            project,
            databases,
            name="backfill-sample",
            duty=lambda database: _Sampling(project, database, name=name),
            seconds=project.settings.engine.sample_seconds,
            failed=Event.SAMPLE_FAILED,
        )


class _Sampling:
    """The sampler of one database, with what it reads signals by."""

    def __init__(self, project: Project, database: str, *, name: str) -> None:
        settings = project.settings.database(database)
        self._reader = SignalReader(settings, clock=SystemClock())
        self._sampler = Sampler(
            self._reader,
            settings.signals,
            by=name,
            lease_seconds=LEASE_PERIODS * project.settings.engine.sample_seconds,
        )

    def round(self, desk: Desk) -> None:
        """Sample, if the lease is ours."""
        self._sampler.round(desk.conn, desk.ledger)

    def end(self, desk: Desk | None) -> None:
        """Give the lease back."""
        try:
            if desk is not None:
                self._sampler.resign(desk.conn, desk.ledger)
        finally:
            self._reader.close()
