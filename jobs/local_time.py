"""From a time on an airport's clock to the instant that it means, exactly as PostgreSQL has it.

A clock that is put forward skips an hour, and one that is put back shows an hour twice. For such a
time the zone has two offsets from UTC to offer, the one before the change and the one after it
(Python's `fold` 0 and 1). PostgreSQL's `AT TIME ZONE` takes the one before for the skipped hour and
the one after for the repeated hour. Both times that is the smaller offset, hence the later instant:

    New York 2013-03-10 02:30, skipped    before -5 h, after -4 h: -5 h, 07:30 UTC (03:30 EDT)
    New York 2013-11-03 01:30, repeated   before -4 h, after -5 h: -5 h, 06:30 UTC (01:30 EST)

Python's own default, fold 0, would give the earlier instant of the repeated hour. Agreeing with the
database matters more than the choice: a row filled by SQL and one filled by Python must not differ.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo


def instant(local: datetime, zone: ZoneInfo) -> datetime:
    """The instant at which a clock of the zone shows this time, by PostgreSQL's rule.

    Args:
        local: without a time zone; its fold is ignored.

    Returns:
        In UTC: written with the zone itself, an hour shown twice would be read by its fold.

    Raises:
        OverflowError: the instant lies outside the years 1 to 9999.
    """
    before = local.replace(tzinfo=zone, fold=0).utcoffset()
    after = local.replace(tzinfo=zone, fold=1).utcoffset()
    if before is None or after is None:  # a ZoneInfo always knows; the type of utcoffset does not
        raise ValueError(f"{zone} has no offset at {local}")
    return (local - min(before, after)).replace(tzinfo=UTC, fold=0)


def local_departure(year: int, month: int, day: int, hhmm: int, zone: ZoneInfo) -> datetime:
    """The instant of a departure that is told as a date and the number HHMM, in UTC.

    Args:
        hhmm: 517 is 05:17; 0 is the midnight that begins the day and 2400 the one that ends it.

    Raises:
        ValueError: no calendar has that day, or no clock shows that time.
        OverflowError: the instant lies outside the years 1 to 9999.
    """
    hours, minutes = divmod(hhmm, 100)
    if not 0 <= hhmm <= 2400 or minutes > 59:
        raise ValueError(f"no clock shows {hhmm:04d}")
    return instant(datetime(year, month, day) + timedelta(hours=hours, minutes=minutes), zone)  # noqa: DTZ001 - local time on purpose
