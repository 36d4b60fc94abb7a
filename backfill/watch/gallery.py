"""The gallery: pictures for whoever watches, from Redis, else from the ledger.

A picture in Redis is at most a few seconds old, else it is gone: nobody publishes any more, or
Redis is away. Then the ledger is read instead, at most once in FRESH_SECONDS for all who ask this
gallery, however many they are. What has ended does not change, and is read from the ledger.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar, cast

import psycopg

from backfill.checkpoint import PICTURE_SECONDS, Checkpoint
from backfill.errors import UnreachableError
from backfill.pg.connect import READ_LIMITS, Connection, transaction
from backfill.pg.ledger import Ledger, get_run, list_runs, live_runs
from backfill.pg.pulses import read_pulses
from backfill.watch.picture import Overview, Picture, Point, read_overview, read_picture

#: What was read from the ledger serves for so long.
FRESH_SECONDS = 1.0
#: What has ended may still be deleted, or accepted in quarantine.
ENDED_SECONDS = 5.0
#: So many things are remembered at most.
MOST_KEPT = 256

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


class Gallery:
    """The pictures of one database's runs; may be used by several threads.

    Args:
        connect: opens a connection to the database.
        ledger: found when the project was opened.
        checkpoint: None: the project has no Redis.
        max_slots: the database's limit on slices held at once; None: it has none.
    """

    def __init__(
        self,
        database: str,
        ledger: Ledger,
        *,
        connect: Callable[[], Connection],
        checkpoint: Checkpoint | None,
        max_slots: int | None = None,
    ) -> None:
        self.database = database
        self._max_slots = max_slots
        self.ledger = ledger
        self._connect = connect
        self._checkpoint = checkpoint
        self._conn: Connection | None = None
        self._kept: dict[Hashable, tuple[float, Any]] = {}
        self._unpacked: dict[str, tuple[str, Picture | None]] = {}
        self._shown: dict[str, tuple[float, Picture]] = {}
        self._lock = threading.RLock()

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            if self._conn is not None:
                self._conn.close()
            if self._checkpoint is not None:
                self._checkpoint.close()

    def overview(self) -> Overview:
        """What the runs of this database share.

        Raises:
            UnreachableError: neither Redis nor the database answers.
        """
        packed = None if self._checkpoint is None else self._checkpoint.overview()
        found = None if packed is None else Overview.unpack(packed)
        if found is not None:
            return found
        return self._read(
            "overview",
            FRESH_SECONDS,
            lambda conn: read_overview(
                conn, self.ledger, database=self.database, live=live_runs(conn, self.ledger)
            ),
        )

    def picture(self, run: str) -> Picture:
        """A run now, with its counts as the checkpoint has them.

        Never an older one than before, as long as that serves: where Redis is slow to answer, the
        ledger is read, which is newer than the picture that Redis tells next, and a counter of the
        metrics that fell would be taken for a restart.

        Raises:
            UsageError: there is no such run.
            UnreachableError: neither Redis nor the database answers.
        """
        packed = None if self._checkpoint is None else self._checkpoint.published(run)
        found = None if packed is None else self._unpack(run, packed)
        found = self.from_ledger(run) if found is None else found
        with self._lock:
            shown = self._shown.get(run)
            if (
                shown is not None
                and found.progress.at < shown[1].progress.at
                # clocks of those who take pictures may differ: it is not held back for long
                and time.monotonic() - shown[0] < PICTURE_SECONDS
            ):
                return shown[1]
            if shown is None or found is not shown[1]:
                _keep(self._shown, run, (time.monotonic(), found))
            return found

    @property
    def misses_redis(self) -> bool:
        """True while Redis does not answer, though the project has one."""
        return self._checkpoint is not None and self._checkpoint.is_away

    def from_ledger(self, run: str, *, seconds: float = FRESH_SECONDS) -> Picture:
        """A run as the ledger has it, so many seconds ago at most.

        Raises:
            UsageError: there is no such run.
            UnreachableError: the database does not answer.
        """
        snapshot = None if self._checkpoint is None else self._checkpoint.read(run)
        return self._read(
            ("picture", run),
            seconds,
            lambda conn: read_picture(
                conn,
                self.ledger,
                get_run(conn, self.ledger, run),
                database=self.database,
                snapshot=snapshot,
                max_slots=self._max_slots,
            ),
        )

    def runs(self, *, limit: int = 50) -> list[Picture]:
        """The newest runs, live ones first; of those that have ended, how they ended.

        Raises:
            UnreachableError: neither Redis nor the database answers.
        """
        live = [self.picture(run) for run in self.overview().live]
        shown = {picture.progress.run.id for picture in live}
        ended = [one for one in self._ended(limit) if one.progress.run.id not in shown]
        return [*live[::-1], *ended][:limit]

    def points(self, run: str) -> tuple[Sequence[Point], Sequence[Point]]:
        """How far a run was over time: since it began, and second by second of late; oldest first.

        Raises:
            UnreachableError: neither Redis nor the database answers.
        """
        packed = [] if self._checkpoint is None else self._checkpoint.pulses(run)
        pulses = [Point.unpack(one) for one in packed] or self._read(
            ("pulses", run),
            ENDED_SECONDS,
            lambda conn: [Point.of_pulse(one) for one in read_pulses(conn, self.ledger, run)],
        )
        recent = [] if self._checkpoint is None else self._checkpoint.recent(run)
        return pulses, [Point.unpack(one) for one in recent]

    def batches(self, run: str) -> Mapping[str, float]:
        """What became of a run's batches, by name (watch/batches.py); empty without Redis."""
        return {} if self._checkpoint is None else self._checkpoint.counted(run) or {}

    def read_ledger(self, read: Callable[[Connection], T]) -> T:
        """Read something else from the ledger, in one transaction that only reads.

        Raises:
            UnreachableError: the database does not answer.
        """
        with self._lock:
            try:
                if self._conn is None or self._conn.closed:
                    self._conn = self._connect()
                with transaction(self._conn, READ_LIMITS, reads_only=True):
                    return read(self._conn)
            except psycopg.OperationalError as error:
                if self._conn is not None:
                    self._conn.close()
                raise UnreachableError(
                    f"database {self.database} does not answer ({type(error).__name__})",
                    remedy="Runs go on when it is back; nothing is lost.",
                ) from error

    def _unpack(self, run: str, packed: str) -> Picture | None:
        """A picture from Redis; the same as before where it is: many look between two of them."""
        with self._lock:
            before = self._unpacked.get(run)
            if before is None or before[0] != packed:
                before = packed, Picture.unpack(packed)
                _keep(self._unpacked, run, before)
            return before[1]

    def _ended(self, limit: int) -> list[Picture]:
        def read(conn: Connection) -> list[Picture]:
            return [
                read_picture(conn, self.ledger, run, database=self.database, snapshot=None)
                for run in list_runs(conn, self.ledger, limit=limit)
                if not run.run_state.is_live
            ]

        return self._read(("ended", limit), ENDED_SECONDS, read)

    def _read(self, what: Hashable, seconds: float, read: Callable[[Connection], T]) -> T:
        """Read from the ledger, or say what was read a moment ago."""
        with self._lock:
            kept = self._kept.get(what)
            if kept is not None and time.monotonic() - kept[0] < seconds:
                return cast("T", kept[1])
            found = self.read_ledger(read)
            _keep(self._kept, what, (time.monotonic(), found))
            return found


def _keep(kept: dict[K, V], what: K, value: V) -> None:
    """Put it last; the first of too many go."""
    kept.pop(what, None)
    while len(kept) >= MOST_KEPT:
        kept.pop(next(iter(kept)))
    kept[what] = value
