"""The backfills of the flights' expand/contract story (`backfill/local/flights.py` tells it).

One in Python, which SQL could do as well (so that `CHECKS` can compare the two); one that never
leaves the database; one that copies columns into a table of their own. Their order is free.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import psycopg

from backfill import Insert, Job, Quarantine, Row, Sql, Table, Update
from jobs.local_time import local_departure


class FillDepartsAt(Job):
    """Give every flight its scheduled departure as an instant, by the clock of its airport."""

    source = Table(
        "flights",
        columns=["origin", "year", "month", "day", "sched_dep_time"],
        todo="departs_at IS NULL",
    )
    target = Update("departs_at")

    def setup(self, conn: psycopg.Connection[Any]) -> None:
        """Read every airport's zone once; those without one are left out."""
        airports = conn.execute("SELECT faa, tzone FROM airports WHERE tzone IS NOT NULL")
        self.zones = {faa: zone for faa, name in airports if (zone := _zone(name)) is not None}

    def transform(self, row: Row) -> Mapping[str, datetime] | None:
        """None for a flight without a schedule: it departs at no time, which is no mistake.

        Raises:
            Quarantine: the airport has no zone, or its clock or calendar never shows this time.
        """
        if row.sched_dep_time is None:
            return None
        zone = self.zones.get(row.origin)
        if zone is None:
            raise Quarantine(f"airport {row.origin} has no known time zone")
        try:
            departs_at = local_departure(row.year, row.month, row.day, row.sched_dep_time, zone)
        except (ValueError, OverflowError) as error:
            raise Quarantine(f"no such local time: {error}") from error
        return {"departs_at": departs_at}


class FillCarrierId(Job):
    """Refer to the airline by its id, where only its code was."""

    source = Table("flights", todo="carrier_id IS NULL")
    transform = Sql(carrier_id="(SELECT a.id FROM airlines a WHERE a.carrier = flights.carrier)")
    target = Update()


class SplitFlightTimes(Job):
    """Copy the operational times into a table of their own.

    There is no todo: an anti-join against the new table would cost each page more than the copy,
    and the key never changes. Rows that the application has written there already are newer: skip.
    """

    source = Table("flights")
    transform = Sql(
        flight_id="id",
        dep_time="dep_time",
        sched_dep_time="sched_dep_time",
        dep_delay="dep_delay",
        arr_time="arr_time",
        sched_arr_time="sched_arr_time",
        arr_delay="arr_delay",
    )
    target = Insert("flight_times", on_conflict="skip")


def _zone(name: str) -> ZoneInfo | None:
    """The zone of that name, or None: a typing error in one airport is no reason to stop."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return None
