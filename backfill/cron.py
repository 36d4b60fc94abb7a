"""Cron expressions in a time zone: `0 22 * * Mon-Fri` of Europe/Berlin.

They are read as Debian's cron reads them (by cronsim), daylight saving included: what would come in
the hour that spring leaves out comes right after it, what would come twice in autumn comes once. An
expression for every hour, or with a star in its minutes or hours, follows the hours as they pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from backfill.errors import UsageError
from backfill.wallclock import find_zone

_FIELDS = ("minute", "hour", "day-of-month", "month", "day-of-week")
_RIGHT_FORM = (
    'Write five fields: minute, hour, day of month, month, day of week, such as "0 22 * * Mon-Fri".'
)
#: How far back the newest tick is looked for first; each further look goes sixty times as far.
_FIRST_LOOK = timedelta(minutes=2)
_FARTHER = 60


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression and the zone in which it is read; made by `Cron.parse`."""

    text: str
    zone: str
    _zone: ZoneInfo = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_zone", find_zone(self.zone))

    @classmethod
    def parse(cls, text: str, zone: str) -> Cron:
        """The expression, checked.

        Raises:
            UsageError: naming the field or the zone that is wrong.
        """
        cron = cls(" ".join(text.split()), zone)
        fields = text.split()
        if len(fields) != len(_FIELDS):
            raise UsageError(f'cron "{text}" has {len(fields)} fields', remedy=_RIGHT_FORM)
        try:
            first = next(cron.after(datetime.now(UTC)), None)
        # cronsim's own error, or Python's for a number of thousands of digits
        except (CronSimError, ValueError) as error:
            reason = str(error).removeprefix("Bad ")
            named = (
                f'"{fields[_FIELDS.index(reason)]}" is no {reason}' if reason in _FIELDS else reason
            )
            raise UsageError(f'cron "{text}": {named}', remedy=_RIGHT_FORM) from None
        if first is None:
            raise UsageError(
                f'cron "{text}" never comes: no day of the next fifty years fits',
                remedy="Check its day of month, its month and its day of week.",
            )
        return cron

    def __str__(self) -> str:
        return f"{self.text} {self.zone}"

    def after(self, instant: datetime) -> Iterator[datetime]:
        """The ticks after an instant, ascending, in UTC; none after fifty years without one."""
        last = instant.astimezone(UTC)
        # in its zone it would be compared by the wall clock, which autumn turns back
        for tick in CronSim(self.text, last.astimezone(self._zone)):
            found = tick.astimezone(UTC)
            if found > last:
                yield found
                last = found

    def newest(self, since: datetime, now: datetime) -> datetime | None:
        """The last tick from `since` to `now`, both included; None: there is none."""
        since, now = since.astimezone(UTC), now.astimezone(UTC)
        look, newest = _FIRST_LOOK, None
        while newest is None:
            begin = max(since - timedelta(seconds=1), now - look)
            for tick in self.after(begin):
                if tick > now:
                    break
                if tick >= since:
                    newest = tick
            if begin < since:
                break
            look *= _FARTHER
        return newest
