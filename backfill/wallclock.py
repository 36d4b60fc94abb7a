"""The wall clocks of the world: time zones by name, and what such a clock shows when.

Computing with wall times is right only while a zone's offset from UTC is constant. So whoever does
it asks `stretches` first, and computes within each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from zoneinfo import ZoneInfo, available_timezones

from backfill.errors import UsageError

# in the tz database's folder, but another zone on every machine, or one that counts leap seconds
_NO_ZONE = re.compile(r"(localtime|posixrules|Factory|(posix|right)/.*)", re.DOTALL)

#: No zone of the tz database changes its offset twice within 95 hours (1939 to 2100), so within
#: this step an offset that is equal at both ends is constant.
STEP = timedelta(days=1)
_SECOND = timedelta(seconds=1)


def find_zone(name: str) -> ZoneInfo:
    """The zone of that name in the tz database.

    Raises:
        UsageError: there is none; the message suggests the nearest name.
    """
    try:
        if _NO_ZONE.fullmatch(name) is None:
            return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown; no valid key; the name of a folder
        pass
    names = {known.lower(): known for known in available_timezones()}
    close = get_close_matches(name.lower(), names, n=1)
    hint = f'; did you mean "{names[close[0]]}"?' if close else ""
    raise UsageError(
        f'"{name}" is no time zone{hint}',
        remedy='Time zones have names of the tz database, such as "Europe/Berlin" or "UTC".',
    )


def stretches(
    zone: ZoneInfo, begin: datetime, end: datetime
) -> Iterator[tuple[datetime, datetime, timedelta]]:
    """[begin, end) cut where the zone's offset changes, each part with its offset.

    Args:
        begin, end: in UTC, on whole seconds, at most `STEP` apart.
    """
    before, after = offset(zone, begin), offset(zone, end - _SECOND)
    if before == after:
        yield begin, end, before
        return
    old, new = begin, end - _SECOND
    while new - old > _SECOND:
        middle = old + timedelta(seconds=(new - old) // _SECOND // 2)
        if offset(zone, middle) == before:
            old = middle
        else:
            new = middle
    yield begin, new, before
    yield new, end, after


def offset(zone: ZoneInfo, instant: datetime) -> timedelta:
    """The zone's offset from UTC at this instant, which is given in UTC."""
    return instant.astimezone(zone).replace(tzinfo=UTC) - instant
