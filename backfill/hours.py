"""When a run may work: within its window, not before `start_at`, not after `until`.

The three are asked together, because a run that waits says one thing: until when, and why.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from backfill.window import Window


@dataclass(frozen=True, slots=True)
class Shut:
    """Why a run may not work now, and when it may again.

    Attributes:
        opens: aware; None: not by itself, because `until` has passed.
        reason: in words, for people.
    """

    opens: datetime | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """When a run may work. All instants are aware; None: no bound on that side."""

    window: Window | None = None
    start_at: datetime | None = None
    until: datetime | None = None

    @classmethod
    def parse(
        cls, *, window: str | None = None, start_at: str | None = None, until: str | None = None
    ) -> Self:
        """The hours that a run's options describe.

        Raises:
            UsageError: the window is none.
            ValueError: an instant is none.
        """
        return cls(
            window=None if window is None else Window.parse(window),
            start_at=None if start_at is None else datetime.fromisoformat(start_at),
            until=None if until is None else datetime.fromisoformat(until),
        )

    def shut(self, at: datetime) -> Shut | None:
        """Why a run may not work at this instant; None: it may."""
        if self.until is not None and at >= self.until:
            return Shut(None, f"its time was over at {_told(self.until)} (until)")
        if self.start_at is not None and at < self.start_at:
            opens = self.start_at if self.window is None else self.window.next_open(self.start_at)
            return self._shut_until(opens, f"it starts at {_told(self.start_at)}")
        if self.window is not None and not self.window.is_open(at):
            opens = self.window.next_open(at)
            return self._shut_until(opens, f"outside its window ({self.window})")
        return None

    def _shut_until(self, opens: datetime, reason: str) -> Shut:
        if self.until is not None and opens >= self.until:
            return Shut(
                None, f"{reason}, which does not open again before {_told(self.until)} (until)"
            )
        return Shut(opens, reason)


def _told(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="minutes")
