"""What a run did over time, made out of its events, pulses and slices: pure functions.

1. A run works from its beginning to its end, but for the time in which a cause paused it, or in
   which it had failed and nobody had taken it up again.
2. Rows are spread evenly over the working time between two instants at which their number is known.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from backfill.events import Event
from backfill.model import PauseCause
from backfill.pg.ledger import EventRecord

_ENDS = {Event.RUN_FAILED, Event.RUN_CANCELLED, Event.RUN_SUCCEEDED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """One cause that paused a run, from and until when.

    Attributes:
        by, ended_by: who or what began it, and ended it.
        until: None: it still does.
    """

    cause: str
    reason: str
    since: datetime
    by: str
    until: datetime | None = None
    ended_by: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """A part of a run's time.

    Attributes:
        rows: settled in it.
        worked_seconds: of it.
    """

    since: datetime
    until: datetime
    rows: float
    worked_seconds: float

    @property
    def rate(self) -> float:
        """Rows per second of work."""
        return self.rows / self.worked_seconds if self.worked_seconds > 0 else 0.0


def pauses_of(events: Iterable[EventRecord]) -> list[Paused]:
    """Each cause that paused the run, in the order in which they began.

    Args:
        events: of the run, oldest first.
    """
    found: list[Paused] = []
    open_causes: dict[str, int] = {}

    def close(causes: Iterable[str], event: EventRecord) -> None:
        for cause in causes:
            if (number := open_causes.pop(cause, None)) is not None:
                found[number] = replace(found[number], until=event.at, ended_by=event.caused_by)

    for event in events:
        if event.name == Event.RUN_PAUSED:
            cause = str(event.detail.get("cause", "?"))
            open_causes[cause] = len(found)
            found.append(
                Paused(
                    cause=cause,
                    reason=str(event.detail.get("reason", "")),
                    since=event.at,
                    by=event.caused_by,
                )
            )
        elif event.name == Event.RUN_RESUMED:
            close(map(str, event.detail.get("causes", ())), event)
        elif event.name in {Event.ROWS_RELEASED, Event.ROWS_ACCEPTED}:
            close([PauseCause.QUARANTINE], event)
        elif event.name in _ENDS:
            close(list(open_causes), event)
    return found


class WorkingTime:
    """When a run worked.

    Args:
        events: of the run, oldest first.
        begin: when it began to work.
        end: when it ended, or now.
    """

    def __init__(self, events: Sequence[EventRecord], begin: datetime, end: datetime) -> None:
        self.begin, self.end = begin, max(begin, end)
        spans = [(paused.since, paused.until or self.end) for paused in pauses_of(events)]
        failed: datetime | None = None
        for event in events:
            if event.name == Event.RUN_FAILED:
                failed = event.at
            elif event.name == Event.RUN_RETRIED and failed is not None:
                spans.append((failed, event.at))
                failed = None
        self._idle = _merged(spans)

    def seconds(self, since: datetime | None = None, until: datetime | None = None) -> float:
        """Of the time between, how long it worked."""
        first = max(since or self.begin, self.begin)
        last = min(until or self.end, self.end)
        if last <= first:
            return 0.0
        idle = sum(
            max(0.0, (min(last, end) - max(first, begin)).total_seconds())
            for begin, end in self._idle
        )
        return max(0.0, (last - first).total_seconds() - idle)

    def stretches(self, points: Iterable[tuple[datetime, int]], number: int) -> list[Stretch]:
        """The run's time in equal parts, with the rows of each.

        Args:
            points: instants, and how many rows were settled until then; in any order. That there
                were none when it began need not be among them.
        """
        known = [(self.begin, 0)]
        for at, rows in sorted((at, rows) for at, rows in points if at > self.begin):
            known.append((min(at, self.end), max(rows, known[-1][1])))
        step = (self.end - self.begin) / number
        edges = [self.begin + step * part for part in range(number)] + [self.end]
        settled = [self._rows_at(known, edge) for edge in edges]
        return [
            Stretch(
                since=edges[part],
                until=edges[part + 1],
                rows=settled[part + 1] - settled[part],
                worked_seconds=self.seconds(edges[part], edges[part + 1]),
            )
            for part in range(number)
        ]

    def _rows_at(self, known: Sequence[tuple[datetime, int]], at: datetime) -> float:
        after = bisect_right([instant for instant, _ in known], at)
        if after == len(known):
            return float(known[-1][1])
        (since, rows), (until, more) = known[after - 1], known[after]
        whole = self.seconds(since, until)
        # all of it paused: the batches that were in hand then came to their end
        share = self.seconds(since, at) / whole if whole > 0 else (at - since) / (until - since)
        return rows + share * (more - rows)


def _merged(spans: Iterable[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    merged: list[tuple[datetime, datetime]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((begin, end))
    return merged
