"""When a run may work: within its window, not before `start_at`, not after `until`.

The three are asked together, because a run that waits says one thing: until when, and why.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from backfill.window import Window

#: An end that is farther away than this is told as "never": nobody plans by it, and it is looked up
#: day by day.
FARTHEST = timedelta(days=3653)


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

    def finish(self, at: datetime, working_seconds: float) -> datetime | None:
        """When so much work will be over that begins or goes on at `at`; in UTC.

        Args:
            working_seconds: ≥ 0, of which only hours count in which the run may work.

        Returns:
            None: never, because `until` comes first, or not within ten years.
        """
        if working_seconds > FARTHEST.total_seconds():
            return None
        left = timedelta(seconds=working_seconds)
        for opens, closes in self._openings(at, at + FARTHEST):
            if left <= closes - opens:
                return opens + left
            left -= closes - opens
        return None

    def working_seconds(self, begin: datetime, end: datetime) -> float:
        """How many of the seconds from `begin` to `end` the run was allowed to work in."""
        openings = self._openings(begin, end)
        return sum((closes - opens).total_seconds() for opens, closes in openings)

    def _openings(self, begin: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
        """The stretches of [begin, end) in which the run may work, ascending, in UTC."""
        # in UTC first: aware values of one and the same zone compare by their wall time
        first = max(at.astimezone(UTC) for at in (begin, self.start_at or begin))
        last = min(at.astimezone(UTC) for at in (end, self.until or end))
        if first >= last:
            return
        if self.window is None:
            yield first, last
            return
        for opens, closes in self.window.openings(first):
            if opens >= last:
                return
            yield max(opens, first), min(closes, last)

    def _shut_until(self, opens: datetime, reason: str) -> Shut:
        if self.until is not None and opens >= self.until:
            return Shut(
                None, f"{reason}, which does not open again before {_told(self.until)} (until)"
            )
        return Shut(opens, reason)


def _told(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="minutes")
