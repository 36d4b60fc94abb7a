"""What a run did over time, as columns for its charts: few enough to be sent each second."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from backfill.watch.picture import Point

#: Points of a chart at most: one for each second or third pixel of a wide one.
MOST_POINTS = 240


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moment:
    at: datetime
    rows_per_second: float | None
    point: Point


def series(
    pulses: Sequence[Point], recent: Sequence[Point], *, most: int = MOST_POINTS
) -> dict[str, Any]:
    """Columns of equal length, oldest first; null where nothing is known.

    Args:
        pulses: since the run began, far apart.
        recent: of the last minutes, second by second; they stand for the pulses of that time.
        most: so many points at most; neighbours are averaged.
    """
    moments = list(_moments(pulses, recent))
    groups = _in_groups(moments, most)

    def column(value: Callable[[_Moment], float | None], digits: int) -> list[float | None]:
        return [_mean((value(one) for one in group), digits) for group in groups]

    names = sorted({name for one in moments for name in one.point.signals})
    return {
        "at": [round(group[-1].at.timestamp(), 1) for group in groups],
        "rows_per_second": column(lambda one: one.rows_per_second, 1),
        "batch_rows": column(lambda one: one.point.batch_rows, 0),
        "batch_seconds": column(lambda one: one.point.batch_seconds, 4),
        "speed": column(lambda one: one.point.speed, 2),
        "signals": {
            name: column(lambda one, name=name: one.point.signals.get(name), 4)  # type: ignore[misc]
            for name in names
        },
    }


def _moments(pulses: Sequence[Point], recent: Sequence[Point]) -> Iterable[_Moment]:
    before: Point | None = None
    for pulse in pulses:
        if recent and pulse.at >= recent[0].at:
            break
        yield _Moment(at=pulse.at, rows_per_second=_rate(before, pulse), point=pulse)
        before = pulse
    for point in recent:
        rate = point.rows_per_second
        yield _Moment(
            at=point.at,
            rows_per_second=_rate(before, point) if rate is None else rate,
            point=point,
        )
        before = point


def _rate(before: Point | None, now: Point) -> float | None:
    """Keys settled per second between two points."""
    if before is None:
        return None
    seconds = (now.at - before.at).total_seconds()
    return max(0, now.settled - before.settled) / seconds if seconds > 0 else None


def _in_groups(moments: Sequence[_Moment], most: int) -> list[list[_Moment]]:
    """By equal spans of time, so that a minute looks as wide as any other; none is empty."""
    if len(moments) <= most:
        return [[one] for one in moments]
    begin, end = moments[0].at, moments[-1].at
    span = (end - begin) / most
    groups: dict[int, list[_Moment]] = {}
    for one in moments:
        groups.setdefault(min(most - 1, int((one.at - begin) / span)), []).append(one)
    return list(groups.values())


def _mean(values: Iterable[float | None], digits: int) -> float | None:
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known), digits) if known else None
