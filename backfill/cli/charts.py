"""What is drawn with characters: a bar, a rate over time, a map of the slices.

All of it is one line high, and has a form in plain ASCII for terminals that know no more.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backfill.pg.pictures import Cell

#: How far a run was at instants: keys settled, oldest first.
Marks = Sequence[tuple[datetime, int]]

_LEVELS, _LEVELS_ASCII = "▁▂▃▄▅▆▇█", "_.-:=+*#"
#: A character stands for one of these many seconds, so that those that are past stay as they are.
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400)


@dataclass(frozen=True, slots=True)
class Spark:
    """A rate over time.

    Attributes:
        line: a character a step; a blank where nothing was done.
        seconds: from its beginning to its end.
        most: the highest of its rates, in keys per second.
    """

    line: str
    seconds: float
    most: float


def bar(share: float, width: int, *, ascii_only: bool = False) -> tuple[str, str]:
    """The part that is done, and the rest; together `width` characters."""
    halves = int(min(1.0, max(0.0, share)) * width * 2)
    full, half = divmod(halves, 2)
    if ascii_only:
        return "#" * full, "-" * (width - full)
    return "━" * full + "╸" * half, "─" * (width - full - half)


def spark(
    marks: Marks, *, begin: datetime, end: datetime, width: int, ascii_only: bool = False
) -> Spark | None:
    """The rate from `begin` to `end` in at most `width` characters; None: too short to say."""
    seconds = (end - begin).total_seconds()
    fitting = (step for step in _STEPS if seconds <= step * width)
    step = next(fitting, seconds / width)
    known = [(begin, 0), *(mark for mark in marks if mark[0] > begin)]
    rates = []
    for number in range(math.ceil(seconds / step) if seconds > 0 else 0):
        since = number * step
        until = min(seconds, since + step)
        if until - since < step / 2 and number:
            break  # the last one has hardly begun
        settled = _settled(known, begin, until) - _settled(known, begin, since)
        rates.append(max(0.0, settled / (until - since)))
    if len(rates) < 2:
        return None
    return Spark("".join(_levels(rates, ascii_only)), seconds, max(rates))


def _settled(marks: Marks, begin: datetime, after: float) -> float:
    """Keys settled so many seconds after `begin`; between two marks, on the line between them."""
    at = begin + timedelta(seconds=after)
    index = bisect_left(marks, at, key=lambda mark: mark[0])
    if index == len(marks):
        return marks[-1][1]
    if index == 0:
        return marks[0][1]
    (before, low), (behind, high) = marks[index - 1], marks[index]
    return low + (high - low) * ((at - before) / (behind - before))


def _levels(rates: Sequence[float], ascii_only: bool) -> Iterator[str]:
    levels = _LEVELS_ASCII if ascii_only else _LEVELS
    most = max(rates)
    for rate in rates:
        if rate <= most / 1000:
            yield " "
        else:
            yield levels[min(len(levels) - 1, int(rate / most * len(levels)))]


def slice_map(
    cells: Sequence[Cell], width: int, *, ascii_only: bool = False
) -> list[tuple[str, str]]:
    """At most `width` characters with their styles, in the order of the keys."""
    each = max(1, math.ceil(len(cells) / width))
    groups = [cells[first : first + each] for first in range(0, len(cells), each)]
    return [_cell(group, ascii_only) for group in groups]


def _cell(group: Sequence[Cell], ascii_only: bool) -> tuple[str, str]:
    if any(cell.failing for cell in group):
        return "!", "red"
    if any(cell.held for cell in group):
        return ("o" if ascii_only else "▓"), "cyan"
    if any(cell.sweep for cell in group):
        return ("%" if ascii_only else "▒"), "yellow"
    if all(cell.walk == 0 for cell in group):
        return ("#" if ascii_only else "█"), "green"
    return (":" if ascii_only else "░"), "dim"
