"""`backfill` with a stopwatch on all that watches, in CPU seconds of the thread that does it.

Every process writes what it has spent so far into the project's folder, at most a moment late.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backfill.cli import main
from backfill.worker.publishing import _Publishing
from benchmarks.unwatched import WATCHING

#: A process writes at most so often.
WRITE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Spent:
    """What watching took of one process.

    Attributes:
        backends: PostgreSQL's processes that served nothing else.
    """

    seconds: float
    backends: Sequence[int]


def spent(folder: Path) -> dict[int, Spent]:
    """What was spent so far, by process id."""
    return {
        int(path.stem): Spent(**json.loads(path.read_text())) for path in _in(folder).glob("*.json")
    }


def forget(folder: Path) -> None:
    """The processes have ended."""
    shutil.rmtree(_in(folder), ignore_errors=True)


def _in(folder: Path) -> Path:
    return folder / "spent"


class _Stopwatch:
    """Adds up what the outermost of the timed calls take; of several threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = _in(folder)
        self._folder.mkdir(exist_ok=True)
        self._lock = threading.Lock()
        self._inside = threading.local()
        self._of = os.getpid()
        self._seconds = 0.0
        self._written_at = 0.0
        self.backends: set[int] = set()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the CPU time of this thread, unless it is counted already."""
        if getattr(self._inside, "it", False):
            yield
            return
        self._inside.it = True
        began = time.thread_time()
        try:
            yield
        finally:
            self._inside.it = False
            self._add(time.thread_time() - began)

    def _add(self, seconds: float) -> None:
        with self._lock:
            if self._of != os.getpid():  # forked: the parent's seconds are the parent's
                self._of, self._seconds, self.backends = os.getpid(), 0.0, set()
            self._seconds += seconds
            if time.monotonic() - self._written_at < WRITE_SECONDS:
                return
            self._written_at = time.monotonic()
            path = self._folder / f"{self._of}.json"
            told = json.dumps({"seconds": self._seconds, "backends": sorted(self.backends)})
            path.with_suffix(".new").write_text(told)
            path.with_suffix(".new").replace(path)


def measure(folder: Path) -> None:
    """Time what watches in this process, and in those that it forks."""
    stopwatch = _Stopwatch(folder)

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def called(*args: Any, **kwargs: Any) -> Any:
            with stopwatch.running():
                return call(*args, **kwargs)

        return called

    def publishing(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def called(self: Any, desk: Any) -> Any:
            stopwatch.backends.add(desk.conn.info.backend_pid)
            return call(self, desk)

        return called

    setattr(_Publishing, "round", publishing(_Publishing.round))  # noqa: B010 - as in unwatched
    for owner, names in WATCHING.items():
        for name in names:
            setattr(owner, name, timed(getattr(owner, name)))


if __name__ == "__main__":
    measure(Path(sys.argv[sys.argv.index("--project") + 1]))
    main()
