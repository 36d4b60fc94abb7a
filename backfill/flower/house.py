"""What all our handlers share: the project, its galleries, and the threads in which they are asked.

A database that does not answer is not asked again for a moment: whoever watches would otherwise
keep every thread waiting for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import psycopg
from tornado.ioloop import IOLoop

from backfill.errors import BackfillError
from backfill.project import Project
from backfill.url import safe_url
from backfill.watch.gallery import Gallery

#: A database that could not be opened is tried again after so long.
AGAIN_SECONDS = 3.0
#: Of ours, beside those in which Flower asks the workers.
THREADS = 8

T = TypeVar("T")


class House:
    """See the module.

    Args:
        project: whose runs are shown.
    """

    def __init__(self, project: Project) -> None:
        self.project = project
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="backfills")
        self._galleries: dict[str, Gallery] = {}
        self._failed: dict[str, tuple[float, BackfillError]] = {}
        self._locks = {name: threading.Lock() for name in project.settings.ledgers}

    @property
    def databases(self) -> Sequence[str]:
        """Their names in the settings, in the file's order."""
        return list(self._locks)

    def where(self, database: str) -> str:
        """A database's scheme, host and name; no password.

        Raises:
            UsageError, ProjectError: there is none of that name, or its variable is not set.
        """
        return safe_url(self.project.settings.database(database).url)

    def gallery(self, database: str) -> Gallery:
        """The pictures of a database's runs. May wait for the database: in a thread only.

        Raises:
            BackfillError: there is no such database, it does not answer, or has no ledger.
        """
        database = self.project.settings.database(database).name
        with self._locks[database]:
            found = self._galleries.get(database)
            if found is not None:
                return found
            failed = self._failed.get(database)
            if failed is not None and time.monotonic() - failed[0] < AGAIN_SECONDS:
                raise failed[1]
            try:
                self._galleries[database] = self.project.gallery(database)
            except BackfillError as error:
                self._failed[database] = (time.monotonic(), error)
                raise
            return self._galleries[database]

    async def ask(self, call: Callable[[], T]) -> T:
        """Call in a thread, while the event loop goes on."""
        return await IOLoop.current().run_in_executor(self._threads, call)

    def close(self) -> None:
        """Close all connections; what waits for a thread is not done any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for gallery in self._galleries.values():
            try:
                gallery.close()
            except psycopg.Error:  # it is gone already
                continue
