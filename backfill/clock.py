"""Time, as it is handed to the engine, so that tests can hand it another.

Deadlines that other processes must agree on use PostgreSQL's clock: leases in the database itself,
windows by a clock that has heard the database's time.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """A source of time, and a way to wait."""

    def now(self) -> datetime:
        """The wall clock, aware, in UTC; of the database, once it was heard."""

    def hear(self, now: datetime) -> None:
        """The database has just said that it is `now`, aware."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    def sleep(self, seconds: float) -> None:
        """Wait; never called while a transaction is open (I5)."""


class SystemClock:
    """The machine's clock; its sleep ends early when `stop` is set.

    A machine's wall clock may be wrong, and jump. From when the database's time was heard, `now` is
    that time and what has gone by since, by the clock that never jumps.
    """

    def __init__(self, stop: threading.Event | None = None) -> None:
        self._stop = stop
        self._heard: tuple[datetime, float] | None = None

    def now(self) -> datetime:
        if self._heard is None:
            return datetime.now(UTC)
        at, since = self._heard
        return at.astimezone(UTC) + timedelta(seconds=time.monotonic() - since)

    def hear(self, now: datetime) -> None:
        self._heard = (now, time.monotonic())

    #: The function itself: transforms look at it for every row.
    monotonic = staticmethod(time.monotonic)

    def sleep(self, seconds: float) -> None:
        if self._stop is None:
            time.sleep(seconds)
        else:
            self._stop.wait(seconds)
