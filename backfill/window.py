"""When a run may work: `"22:00-06:00 Europe/Berlin"`, `"Sat-Sun; not 2026-12-24..2026-12-26"`.

    window    = part { ";" part }          open where an item is, and no black-out
    part      = item | black-out
    item      = [days] [times] [zone]      at least days or times; without: every day, the whole day
    days      = day or day-day, separated by commas    "Mon", "Mon,Wed", "Sat-Mon" (over Sunday)
    times     = HH:MM-HH:MM, separated by commas       "22:00-06:00" (over midnight), "18:00-24:00"
    black-out = "not" date[..date] [zone]  "not 2027-01-01", "not 2026-12-24..2026-12-26" (both too)
    zone      = a name of the tz database              "Europe/Berlin", "UTC"

1. The day named is the day on which an item opens: "Fri 22:00-06:00" ends on Saturday.
2. A part without a zone takes the zone of the nearest earlier part, else of the first later
   part that has one, else UTC.
3. An instant is inside when its local wall time is inside. So an item over the hour that is left
   out in spring is an hour shorter that day, one over the hour that comes twice in autumn is an
   hour longer, and a boundary within that hour is passed twice.
4. An item opens every week: what can never open ("22:00-22:00") is refused.
5. A black-out wins over every item, from the midnight with which its first day begins to the one
   with which its last day ends, by its own zone. An opening over midnight is cut there: the night
   that begins on the day before ends at midnight, the one that begins on the last day opens then.
6. A window of black-outs alone is always open but for these days.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import TypeVar
from zoneinfo import ZoneInfo

from backfill.errors import UsageError
from backfill.wallclock import STEP, find_zone, stretches

T = TypeVar("T", int, datetime)
#: A half-open stretch of minutes, counted from midnight or from Monday 00:00.
Minutes = tuple[int, int]

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_EVERY_DAY = tuple(range(7))
_DAY_MINUTES = 24 * 60
_WEEK_MINUTES = 7 * _DAY_MINUTES
_WHOLE_DAY: Minutes = (0, _DAY_MINUTES)
_WHOLE_WEEK: Minutes = (0, _WEEK_MINUTES)

_CLOCK_RANGE = re.compile(r"([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})")
_RIGHT_FORM = 'Write it like "22:00-06:00 Europe/Berlin" or "Mon-Fri 01:00-05:00 UTC; Sat-Sun".'
_DATE_RANGE = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:\.\.([0-9]{4}-[0-9]{2}-[0-9]{2}))?")
# Far enough for everybody, and never at the ends of what Python can compute with.
_YEARS = range(1900, 3000)

# Items in several zones may cover each other's gaps in one season only: look at all of them.
_HORIZON = timedelta(days=400)
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Item:
    """One weekly rule of a window, in one zone.

    Attributes:
        days: 0 (Monday) to 6, ascending: the days on which it opens.
        times: minutes since midnight, ascending; over midnight the end is greater than 1440.
        zone: the name of a time zone.
    """

    days: tuple[int, ...]
    times: tuple[Minutes, ...]
    zone: str

    def __str__(self) -> str:
        whole_day = self.times == (_WHOLE_DAY,)
        parts = []
        if whole_day or self.days != _EVERY_DAY:
            parts.append(_format_days(self.days))
        if not whole_day:
            parts.append(",".join(_format_range(start, end) for start, end in self.times))
        return " ".join([*parts, self.zone])

    def week(self) -> Iterator[Minutes]:
        """Its stretches, in minutes since Monday 00:00 of the wall clock; in no order."""
        for day in self.days:
            for start, end in self.times:
                opens, closes = day * _DAY_MINUTES + start, day * _DAY_MINUTES + end
                yield opens, min(closes, _WEEK_MINUTES)
                if closes > _WEEK_MINUTES:
                    yield 0, closes - _WEEK_MINUTES


@dataclass(frozen=True, slots=True)
class BlackOut:
    """Days on which a window does not open, in one zone; `first` and `last` are among them."""

    first: date
    last: date
    zone: str

    def __str__(self) -> str:
        last = "" if self.last == self.first else f"..{self.last}"
        return f"not {self.first}{last} {self.zone}"

    def holds(self, instant: datetime) -> bool:
        """True when the zone's calendar shows one of the days at this instant."""
        return self.first <= instant.astimezone(ZoneInfo(self.zone)).date() <= self.last

    def spans(self, begin: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
        """The stretches of [begin, end) (at most STEP) that it holds."""
        if end < _midnight(self.first) - _DAY or begin > _midnight(self.last) + 2 * _DAY:
            return  # no zone is a day away from UTC
        for start, stop, offset in stretches(ZoneInfo(self.zone), begin, end):
            inside = max(_midnight(self.first) - offset, start)
            outside = min(_midnight(self.last) + _DAY - offset, stop)
            if inside < outside:
                yield inside, outside


@dataclass(frozen=True, slots=True)
class Window:
    """When a run may work; made by `Window.parse`.

    `str(window)` is its canonical text, which parses to an equal window. All instants are aware;
    a naive one is a ValueError. Answers that are not the argument itself are in UTC.
    """

    items: tuple[Item, ...]
    black_outs: tuple[BlackOut, ...] = ()
    _weeks: tuple[tuple[ZoneInfo, tuple[Minutes, ...]], ...] = field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        by_zone: dict[str, list[Minutes]] = {}
        for item in self.items:
            by_zone.setdefault(item.zone, []).extend(item.week())
        if not self.items:
            by_zone["UTC"] = [_WHOLE_WEEK]
        weeks = tuple((ZoneInfo(zone), tuple(_merged(week))) for zone, week in by_zone.items())
        object.__setattr__(self, "_weeks", weeks)

    @classmethod
    def parse(cls, text: str) -> Window:
        """The window that `text` describes, by the grammar of this module.

        Raises:
            UsageError: naming the part that is wrong; the remedy shows the right form.
        """
        drafts = [_parse_part(part, text) for part in text.split(";")]
        zone = next((draft.zone for draft in drafts if draft.zone), "UTC")
        items, black_outs = [], []
        for draft in drafts:
            zone = draft.zone or zone
            if isinstance(draft, Item):
                items.append(replace(draft, zone=zone))
            else:
                black_outs.append(replace(draft, zone=zone))
        return cls(tuple(items), tuple(black_outs))

    def __str__(self) -> str:
        return "; ".join(map(str, (*self.items, *self.black_outs)))

    def is_open(self, at: datetime) -> bool:
        """True when the wall clock of one of the zones is inside at this instant."""
        instant = _in_utc(at)
        if any(black_out.holds(instant) for black_out in self.black_outs):
            return False
        for zone, week in self._weeks:
            wall = instant.astimezone(zone)
            minute = wall.weekday() * _DAY_MINUTES + wall.hour * 60 + wall.minute
            if any(start <= minute < end for start, end in week):
                return True
        return False

    def next_open(self, at: datetime) -> datetime:
        """The first instant from `at` on at which the window is open: `at` itself when it is."""
        instant = _in_utc(at)
        opens, _ = next(self.openings(instant))
        return opens if opens > instant else at

    def next_close(self, at: datetime) -> datetime | None:
        """When the opening at `at`, or else the next one, ends: the first closed instant after it.

        None: it never closes. (Where only items of several zones together leave no gap, that is
        looked up for the next 400 days, and around every black-out.)
        """
        spans = self.openings(at)
        opens, closes = next(spans)
        is_open_all_week = any(week == (_WHOLE_WEEK,) for _, week in self._weeks)
        horizon = opens + (4 * _DAY if is_open_all_week else _HORIZON)
        for start, end in spans:
            if start > closes:
                return closes
            closes = end
            if end > horizon:
                break
        # no gap until the horizon: the next can only be a black-out, so look around that
        ahead = [b.first for b in self.black_outs if _midnight(b.first) + 2 * _DAY > horizon]
        if not ahead:
            return None
        return self.next_close(max(_midnight(min(ahead)) - 2 * _DAY, horizon))

    def openings(self, at: datetime) -> Iterator[tuple[datetime, datetime]]:
        """Open stretches from the second of `at` on, ascending, in UTC; some of them touch.

        They end on whole seconds, so each ends after `at`. There is always another one: every item
        opens each week, unless a change of the zone's offset leaves that out, and black-outs end.
        """
        begin = _in_utc(at).replace(microsecond=0)
        while True:
            begin = self._past_black_outs(begin)
            end = begin + STEP
            yield from _without(
                _merged(
                    span for zone, week in self._weeks for span in _spans(zone, week, begin, end)
                ),
                _merged(span for closed in self.black_outs for span in closed.spans(begin, end)),
            )
            begin = end

    def _past_black_outs(self, begin: datetime) -> datetime:
        """The last midnight (of UTC) until which everything is blacked out for certain."""
        for closed in sorted(self.black_outs, key=lambda closed: closed.first):
            # no zone is a day away from UTC
            if _midnight(closed.first) + _DAY <= begin < _midnight(closed.last):
                begin = _midnight(closed.last)
        return begin


def _spans(
    zone: ZoneInfo, week: Iterable[Minutes], begin: datetime, end: datetime
) -> Iterator[tuple[datetime, datetime]]:
    """The stretches of [begin, end) (at most STEP) in which the wall clock is inside."""
    for start, stop, offset in stretches(zone, begin, end):
        # with a constant offset, wall time is UTC moved by it, and may be computed with
        wall_start, wall_stop = start + offset, stop + offset
        midnight = wall_start.replace(hour=0, minute=0, second=0)
        monday = midnight - timedelta(days=wall_start.weekday())
        for first in (monday, monday + timedelta(weeks=1)):
            for opens, closes in week:
                inside = max(first + timedelta(minutes=opens), wall_start)
                outside = min(first + timedelta(minutes=closes), wall_stop)
                if inside < outside:
                    yield inside - offset, outside - offset


def _in_utc(at: datetime) -> datetime:
    """The instant in UTC: aware values of one and the same zone compare by their wall time."""
    if at.utcoffset() is None:
        raise ValueError(f"an instant must be aware, that is, have a time zone: {at!r}")
    return at.astimezone(UTC)


def _merged(spans: Iterable[tuple[T, T]]) -> list[tuple[T, T]]:
    """The same stretches, ascending; those that touch or overlap made one."""
    merged: list[tuple[T, T]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _without(
    spans: Iterable[tuple[datetime, datetime]], closed: Iterable[tuple[datetime, datetime]]
) -> Iterator[tuple[datetime, datetime]]:
    """What is left of the spans outside `closed`; both ascending, with no overlap in either."""
    out = list(closed)
    for start, end in spans:
        begin = start
        for shut, opened in out:
            if shut < end and opened > begin:
                if begin < shut:
                    yield begin, shut
                begin = opened
        if begin < end:
            yield begin, end


def _midnight(day: date) -> datetime:
    """The midnight of UTC with which the day begins."""
    return datetime.combine(day, time(), UTC)


# ------------------------------------------------------------------------------------- the text


def _parse_part(part: str, text: str) -> Item | BlackOut:
    """With the empty zone where it names none."""
    joined = " ".join(part.split())
    for separator in ",-":
        joined = joined.replace(f" {separator}", separator).replace(f"{separator} ", separator)
    tokens = joined.split()
    if tokens and tokens[0].lower() == "not":
        return _parse_black_out(re.sub(r" ?[.][.] ?", "..", joined).split()[1:], text)
    days = _parse_days(tokens.pop(0), text) if tokens and _looks_like_days(tokens[0]) else None
    times = _parse_times(tokens.pop(0), text) if tokens and _looks_like_times(tokens[0]) else None
    zone = _parse_zone(tokens.pop(0), text) if tokens else ""
    if tokens:
        raise _wrong(text, f'"{tokens[0]}" is too much; the order is days, times, zone')
    if days is None and times is None:
        raise _wrong(text, f'"{joined}" has neither days nor times')
    return Item(days or _EVERY_DAY, times or (_WHOLE_DAY,), zone)


def _parse_black_out(tokens: list[str], text: str) -> BlackOut:
    match = _DATE_RANGE.fullmatch(tokens[0]) if tokens else None
    if match is None:
        named = " ".join(["not", *tokens])
        raise _wrong(text, f'"{named}" names no date; write "not 2026-12-24..2026-12-26"')
    first = _parse_date(match[1], text)
    last = first if match[2] is None else _parse_date(match[2], text)
    if last < first:
        raise _wrong(text, f'"{tokens[0]}" ends before it begins')
    if len(tokens) > 2:
        raise _wrong(text, f'"{tokens[2]}" is too much; the order is not, dates, zone')
    return BlackOut(first, last, _parse_zone(tokens[1], text) if len(tokens) == 2 else "")


def _parse_date(token: str, text: str) -> date:
    try:
        found = date.fromisoformat(token)
    except ValueError:
        raise _wrong(text, f'"{token}" is no date of the calendar') from None
    if found.year not in _YEARS:
        raise _wrong(text, f'"{token}" is not within {_YEARS[0]} to {_YEARS[-1]}')
    return found


def _looks_like_days(token: str) -> bool:
    """Also for "Monday" and "Mon-Fry", so that the day is what the error names."""
    pieces = re.split("[,-]", token)
    return "/" not in token and any(piece[:3].title() in _DAYS for piece in pieces)


def _looks_like_times(token: str) -> bool:
    """Also for "x2:00", but not for "+02:00", which somebody meant as a zone."""
    return token[0] in "0123456789" or (":" in token and token[0] not in "+-")


def _parse_days(token: str, text: str) -> tuple[int, ...]:
    days: set[int] = set()
    for piece in token.split(","):
        first, dash, last = (part.title() for part in piece.partition("-"))
        for name in (first, last) if dash else (first,):
            if name not in _DAYS:
                raise _wrong(text, f'"{name}" is no day; the days are {" ".join(_DAYS)}')
        if not dash:
            days.add(_DAYS.index(first))
            continue
        if first == last:
            raise _wrong(text, f'"{piece}" may mean a day or a week; write "{first}" or "Mon-Sun"')
        start = _DAYS.index(first)
        days.update((start + n) % 7 for n in range((_DAYS.index(last) - start) % 7 + 1))
    return tuple(sorted(days))


def _parse_times(token: str, text: str) -> tuple[Minutes, ...]:
    times: set[Minutes] = set()
    for piece in token.split(","):
        match = _CLOCK_RANGE.fullmatch(piece)
        if match is None:
            raise _wrong(text, f'"{piece}" is no range of times; write HH:MM-HH:MM')
        start_hour, start_minute, end_hour, end_minute = map(int, match.groups())
        start, end = start_hour * 60 + start_minute, end_hour * 60 + end_minute
        if max(start_minute, end_minute) > 59 or start >= _DAY_MINUTES or end > _DAY_MINUTES:
            raise _wrong(text, f'"{piece}" is not within 00:00-24:00')
        if start == end:
            raise _wrong(text, f'"{piece}" never opens; the whole day is "00:00-24:00"')
        times.add((start, end if start < end else end + _DAY_MINUTES))
    return tuple(sorted(times))


def _parse_zone(token: str, text: str) -> str:
    try:
        return find_zone(token).key
    except UsageError as error:
        raise _wrong(text, error.message) from None


def _wrong(text: str, reason: str) -> UsageError:
    return UsageError(f'window "{text}": {reason}', remedy=_RIGHT_FORM)


def _format_days(days: tuple[int, ...]) -> str:
    cuts = [0, *(n for n, (a, b) in enumerate(pairwise(days), 1) if b != a + 1), len(days)]
    groups = [days[a:b] for a, b in pairwise(cuts)]
    names = [(_DAYS[group[0]], _DAYS[group[-1]]) for group in groups]
    return ",".join(first if first == last else f"{first}-{last}" for first, last in names)


def _format_range(start: int, end: int) -> str:
    end = end if end <= _DAY_MINUTES else end - _DAY_MINUTES
    return f"{start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}"
