"""Publishes pictures of the runs in the background of a process (watch/publisher.py).

It does so beside the sampler, in the process that holds its lease: so one process does it for all,
and when that one dies another follows within two periods. It has threads and connections of its
own, because Redis may be slow to fail, and signals must not wait for it.
"""

from __future__ import annotations

from collections.abc import Iterable

from backfill.checkpoint import Checkpoint
from backfill.events import Event
from backfill.pg.samples import holds_lease
from backfill.project import Desk, Project
from backfill.watch.publisher import Publisher
from backfill.worker.rounds import Rounds

#: From one picture of a run to the next.
PUBLISH_SECONDS = 1.0


class Publishing(Rounds):
    """The publishing threads of one process.

    Args:
        databases: their names in the project's settings.
        name: the process's name, as the sampler has it.
    """

    def __init__(self, project: Project, databases: Iterable[str], *, name: str) -> None:
        super().__init__(
            project,
            databases,
            name="backfill-publish",
            duty=lambda database: _Publishing(project, database, name=name),
            seconds=PUBLISH_SECONDS,
            failed=Event.PUBLISH_FAILED,
        )


class _Publishing:
    """The publisher of one database."""

    def __init__(self, project: Project, database: str, *, name: str) -> None:
        self._project = project
        self._database = database
        self._name = name
        self._checkpoint: Checkpoint | None = None
        self._publisher: Publisher | None = None

    def round(self, desk: Desk) -> None:
        """Publish, if the sampler's lease is ours."""
        if not holds_lease(desk.conn, desk.ledger, by=self._name):
            # what it saw live is another process's to tell of: with the lease again, perhaps hours
            # later, this one would end runs a second time
            self._publisher = None
            return
        if self._checkpoint is None:
            self._checkpoint = self._project.checkpoint(desk.ledger)
        if self._publisher is None:
            self._publisher = Publisher(
                self._database,
                self._checkpoint,
                max_slots=self._project.settings.database(self._database).max_slots,
            )
        self._publisher.round(desk.conn, desk.ledger)

    def end(self, desk: Desk | None) -> None:
        """Publish a last time: the end of a run that this process has brought to its end."""
        try:
            if desk is not None:
                self.round(desk)
        finally:
            if self._checkpoint is not None:
                self._checkpoint.close()
