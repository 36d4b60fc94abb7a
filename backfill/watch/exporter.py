"""The exporter: reads views of all databases when Prometheus asks, and tells them as metrics.

1. A scrape never raises, and is answered within SCRAPE_SECONDS: of what has not been read by then
   the last scrape's reading is told, if it came in the last LATE_SECONDS; else it counts as
   unreadable (`backfill_up` 0).
2. It costs the database next to nothing: live runs come from Redis, where their pictures are
   renewed once a second whoever looks; which runs have ended is asked of the ledger every
   ENDED_AGE_SECONDS. Without Redis the ledger is read instead, once a second at most (gallery.py).
3. Any number of threads may scrape: those that come while something is being read wait for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from importlib.metadata import version
from typing import Generic, Protocol, TypeVar

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, Metric
from prometheus_client.registry import Collector

from backfill.errors import BackfillError, UsageError
from backfill.events import Event
from backfill.pg.connect import Connection
from backfill.pg.ledger import get_run
from backfill.pg.pictures import read_ended
from backfill.settings import Settings
from backfill.watch.gallery import Gallery
from backfill.watch.metrics import ENDED_SECONDS, METRICS, MOST_RUNS, Families, View
from backfill.watch.picture import Overview, Picture, read_picture

log = structlog.get_logger("backfill")

#: Prometheus gives a scrape ten seconds by default; whoever waits inside of Flower waits for all.
SCRAPE_SECONDS = 2.0
#: What came too late for the scrape that asked for it serves a later one for so long.
LATE_SECONDS = 30.0
#: Which runs have ended is asked so often; of one that was live a moment ago, at once.
ENDED_AGE_SECONDS = 15.0
#: How it ended is read anew so often: its quarantine may be accepted later.
ENDED_PICTURE_SECONDS = 60.0

T = TypeVar("T")


class Databases(Protocol):
    """What is needed of a project."""

    settings: Settings

    def gallery(self, database: str) -> Gallery:
        """Pictures of a database's runs, to be closed."""


class RunsCollector(Collector):
    """The metrics of a project's databases, for a registry of prometheus_client.

    Args:
        seconds: the longest that a scrape may take.
    """

    def __init__(self, project: Databases, *, seconds: float = SCRAPE_SECONDS) -> None:
        self._seconds = seconds
        self._version = version("backfill")
        self._databases = [_Database(project, name) for name in project.settings.ledgers]

    def describe(self) -> Iterable[Metric]:
        """Every metric without samples; asked when it is registered, and reads nothing."""
        return [told.family() for told in METRICS]

    def collect(self) -> Iterable[Metric]:
        """Every metric with the samples of now."""
        deadline = time.monotonic() + self._seconds
        readings = [(database, database.begin()) for database in self._databases]
        families = Families()
        families.version(self._version)
        for database, reading in readings:
            view = database.view(reading, deadline)
            if view is None:
                families.unread(database.name)
            else:
                families.view(database.name, view)
        return families.all()

    def close(self) -> None:
        """Close all connections."""
        for database in self._databases:
            database.close()


def registry_of(collector: RunsCollector) -> CollectorRegistry:
    """A registry with these metrics alone."""
    registry = CollectorRegistry()
    registry.register(collector)
    return registry


def register(project: Databases) -> RunsCollector:
    """Add a project's metrics to prometheus_client's own registry, which Flower's /metrics tells.

    Call it once in a process, before the first scrape; nothing is read for it.

    Raises:
        ValueError: they have been added already.
    """
    collector = RunsCollector(project)
    REGISTRY.register(collector)
    return collector


class _Errand(Generic[T]):
    """Something that is read in a thread of its own, never twice at once."""

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._newest: Future[T] | None = None
        self._begun_at = 0.0
        self._last: tuple[float, T] | None = None

    def begin(self, *, age_seconds: float = 0.0) -> Future[T]:
        """Begin to read, unless it is being read, or was a moment ago."""
        with self._lock:
            newest = self._newest
            if newest is not None and (
                not newest.done()
                or (newest.exception() is None and self._age_seconds < age_seconds)
            ):
                return newest
            self._newest = newest = Future()
            self._begun_at = time.monotonic()
        # a daemon: nobody waits at the process's end for a server that does not answer
        threading.Thread(target=self._run, args=[newest], name="scrape", daemon=True).start()
        return newest

    @property
    def is_idle(self) -> bool:
        """True while nothing is being read."""
        return self._newest is None or self._newest.done()

    @property
    def _age_seconds(self) -> float:
        return time.monotonic() - self._begun_at

    def last(self, age_seconds: float) -> T | None:
        """What was read last; None where that is longer ago."""
        last = self._last
        return last[1] if last and time.monotonic() - last[0] < age_seconds else None

    def _run(self, future: Future[T]) -> None:
        try:
            found = self._read()
            self._last = (time.monotonic(), found)
            future.set_result(found)
        except Exception as error:  # noqa: BLE001 - who waits is told: a scrape never raises
            future.set_exception(error)


class _Database:
    """What a scrape reads of one database."""

    def __init__(self, project: Databases, name: str) -> None:
        self.name = name
        self._project = project
        self._opening = threading.Lock()
        self._gallery: Gallery | None = None
        self._reading = _Errand(self._read)
        self._reading_ended = _Errand(self._read_ended)
        # touched by the one thread that reads
        self._live: set[str] = set()
        self._ended: list[Picture] = []
        # touched by the one thread that reads what has ended
        self._ended_pictures: dict[str, tuple[float, Picture]] = {}

    def begin(self) -> Future[View]:
        """Begin to read, for `view`."""
        return self._reading.begin()

    def view(self, reading: Future[View], deadline: float) -> View | None:
        """What was read by then, or a moment ago where this takes longer; None: neither."""
        view = self._wait(reading, deadline)
        if view is None and not reading.done():
            return self._reading.last(LATE_SECONDS)
        return view

    def _wait(self, reading: Future[T], deadline: float) -> T | None:
        """What was read by then (of time.monotonic); None: nothing, and the log says why."""
        try:
            return reading.result(timeout=max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            told = "no answer in time"
        except BackfillError as error:
            told = error.message
        except Exception as error:  # noqa: BLE001 - whatever it is, Prometheus gets an answer
            told = type(error).__name__
        log.warning(Event.SCRAPE_FAILED, database=self.name, error=told)
        return None

    def close(self) -> None:
        """Close the connections, but those of a reading that is under way: it is not waited for."""
        is_idle = self._reading.is_idle and self._reading_ended.is_idle
        if self._gallery is not None and is_idle:
            self._gallery.close()

    def _open(self) -> Gallery:
        with self._opening:
            if self._gallery is None:
                self._gallery = self._project.gallery(self.name)
            return self._gallery

    def _read(self) -> View:
        gallery = self._open()
        overview = gallery.overview()
        # the newest: they are the last that anybody has looked at
        newest = list(reversed(overview.live))[:MOST_RUNS]
        pictures = [one for run in newest if (one := _picture(gallery, run))]
        shown = {*overview.live, *(one.progress.run.id for one in pictures)}
        pictures += [one for one in self._how_ended(overview) if one.progress.run.id not in shown]
        pictures = pictures[:MOST_RUNS]
        runs = [one.progress.run.id for one in pictures]
        return View(
            overview=overview,
            pictures=pictures,
            batches={run: gallery.batches(run) for run in runs},
        )

    def _how_ended(self, overview: Overview) -> list[Picture]:
        """Those that ended of late, as they were last read where the ledger does not answer."""
        live = set(overview.live)
        age_seconds = 0.0 if self._live - live else ENDED_AGE_SECONDS
        reading = self._reading_ended.begin(age_seconds=age_seconds)
        found = self._wait(reading, time.monotonic() + SCRAPE_SECONDS / 2)
        if found is not None:
            self._live, self._ended = live, found
        return self._ended

    def _read_ended(self) -> list[Picture]:
        gallery, now = self._open(), time.monotonic()

        def read(conn: Connection) -> dict[str, tuple[float, Picture]]:
            found = {}
            for run in read_ended(
                conn, gallery.ledger, within_seconds=ENDED_SECONDS, limit=MOST_RUNS
            ):
                kept = self._ended_pictures.get(run)
                if kept is None or now - kept[0] > ENDED_PICTURE_SECONDS:
                    picture = read_picture(
                        conn,
                        gallery.ledger,
                        get_run(conn, gallery.ledger, run),
                        database=self.name,
                        snapshot=None,
                    )
                    kept = (now, picture)
                found[run] = kept
            return found

        # not by the gallery's own memory: a moment ago it may have seen the run alive
        self._ended_pictures = gallery.read_ledger(read)
        return [picture for _, picture in self._ended_pictures.values()]


def _picture(gallery: Gallery, run: str) -> Picture | None:
    try:
        return gallery.picture(run)
    except UsageError:  # somebody has deleted it meanwhile
        return None
