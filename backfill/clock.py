"""Time, as it is handed to the engine, so that tests can hand it another.

Deadlines that other processes must agree on (leases, windows) use PostgreSQL's clock, not this one.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """A source of time, and a way to wait."""

    def now(self) -> datetime:
        """The wall clock, aware, in UTC."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    def sleep(self, seconds: float) -> None:
        """Wait; never called while a transaction is open (I5)."""


class SystemClock:
    """The machine's own clock; its sleep ends early when `stop` is set."""

    def __init__(self, stop: threading.Event | None = None) -> None:
        self._stop = stop

    def now(self) -> datetime:
        return datetime.now(UTC)

    #: The function itself: transforms look at it for every row.
    monotonic = staticmethod(time.monotonic)

    def sleep(self, seconds: float) -> None:
        if self._stop is None:
            time.sleep(seconds)
        else:
            self._stop.wait(seconds)
