"""What every process has beside its work, whether it is a worker's or works on a run of its own."""

from __future__ import annotations

from collections.abc import Iterable

from backfill.project import Project
from backfill.worker.publishing import Publishing
from backfill.worker.rounds import Rounds
from backfill.worker.sampling import Sampling


class Beside:
    """Samples the signals and publishes pictures, in threads.

    Args:
        databases: their names in the project's settings.
        name: the process's name, unlike all others'.
    """

    def __init__(self, project: Project, databases: Iterable[str], *, name: str) -> None:
        named = list(databases)
        self._duties: list[Rounds] = [
            Sampling(project, named, name=name),
            Publishing(project, named, name=name),
        ]

    def start(self) -> None:
        """Start the threads."""
        for rounds in self._duties:
            rounds.start()

    def stop(self) -> None:
        """End the threads; the sampler last, by whose lease the others are chosen."""
        for rounds in reversed(self._duties):
            rounds.stop()
