"""`backfill` with a switch and a stopwatch on all that watches: for a comparison, and nothing else.

Switched off, no batch is counted, no checkpoint written, no picture published, no event sent. What
a run needs to be right stays: the ledger's own rows, and the signals. The stopwatch adds up what
these calls take, of CPU and of time. Every process writes it into the project's folder, at most a
moment late.
"""

from __future__ import annotations

import functools
import json
import mmap
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from celery.events import EventDispatcher

from backfill.cli import main
from backfill.worker.observer import CheckpointObserver
from backfill.worker.publishing import _Publishing
from backfill.worker.reconcile import Reconciler

#: What watches, in workers and the processes that they fork.
WATCHING: Mapping[type, Sequence[str]] = {
    CheckpointObserver: ("batch_committed", "batch_failed", "outage", "flush"),
    _Publishing: ("round", "end"),
    EventDispatcher: ("send", "publish"),
    Reconciler: ("_mend_checkpoint",),
}
#: A process writes at most so often.
WRITE_SECONDS = 0.05


class Switch:
    """A byte that all processes share; on at first."""

    def __init__(self, folder: Path) -> None:
        path = folder / "switch"
        if not path.exists():
            path.write_bytes(b"\1")
        with path.open("r+b") as opened:
            self._byte = mmap.mmap(opened.fileno(), 1)

    @property
    def is_on(self) -> bool:
        return self._byte[0] == 1

    def turn(self, *, on: bool) -> None:
        """From now on, in all processes."""
        self._byte[0] = int(on)


@dataclass(frozen=True, slots=True)
class Spent:
    """What watching took of one process so far.

    Attributes:
        cpu, wall: seconds in the calls.
        backends: PostgreSQL's processes that served nothing else.
    """

    cpu: float
    wall: float
    backends: Sequence[int]


def spent(folder: Path) -> dict[int, Spent]:
    """What was spent so far, by process id."""
    return {
        int(path.stem): Spent(**json.loads(path.read_text())) for path in _in(folder).glob("*.json")
    }


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
        self._cpu = self._wall = self._written_at = 0.0
        self.backends: set[int] = set()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time of this thread, unless it is counted already."""
        if getattr(self._inside, "it", False):
            yield
            return
        self._inside.it = True
        cpu, wall = time.thread_time(), time.perf_counter()
        try:
            yield
        finally:
            self._inside.it = False
            self._add(time.thread_time() - cpu, time.perf_counter() - wall)

    def _add(self, cpu: float, wall: float) -> None:
        with self._lock:
            if self._of != os.getpid():  # forked: the parent's seconds are the parent's
                self._of, self._cpu, self._wall, self.backends = os.getpid(), 0.0, 0.0, set()
            self._cpu += cpu
            self._wall += wall
            if time.monotonic() - self._written_at < WRITE_SECONDS:
                return
            self._written_at = time.monotonic()
            path = self._folder / f"{self._of}.json"
            told = {"cpu": self._cpu, "wall": self._wall, "backends": sorted(self.backends)}
            path.with_suffix(".new").write_text(json.dumps(told))
            path.with_suffix(".new").replace(path)


def equip(folder: Path) -> None:
    """Put both on what watches in this process, and in those that it forks."""
    switch, stopwatch = Switch(folder), _Stopwatch(folder)

    def equipped(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def called(*args: Any, **kwargs: Any) -> Any:
            if not switch.is_on:
                return None
            with stopwatch.running():
                return call(*args, **kwargs)

        return called

    def publishing(call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def called(self: Any, desk: Any) -> Any:
            stopwatch.backends.add(desk.conn.info.backend_pid)
            return call(self, desk)

        return called

    setattr(_Publishing, "round", publishing(_Publishing.round))  # noqa: B010 - mypy would mind
    for owner, names in WATCHING.items():
        for name in names:
            setattr(owner, name, equipped(getattr(owner, name)))


if __name__ == "__main__":
    equip(Path(sys.argv[sys.argv.index("--project") + 1]))
    main()
