"""The demo's jobs: what each makes of a row, without the engine."""

from __future__ import annotations

from datetime import UTC, datetime

import psycopg
import pytest
from psycopg.rows import TupleRow

from backfill import Insert, Job, Quarantine, Row, Sql, Update
from backfill.job import registry
from backfill.job.row import RowFactory
from backfill.local import flights
from jobs.flights import FillCarrierId, FillDepartsAt, SplitFlightTimes

Conn = psycopg.Connection[TupleRow]


def flight(
    *,
    origin: str = "JFK",
    month: int = 7,
    day: int = 1,
    sched_dep_time: int | None = 515,
) -> Row:
    """A flight of 2013, as the job reads it."""
    columns = ["id", "origin", "year", "month", "day", "sched_dep_time"]
    return RowFactory(columns, ["id"])([1, origin, 2013, month, day, sched_dep_time])


@pytest.fixture
def departures(flights_conn: Conn) -> FillDepartsAt:
    """The job, set up, knowing also an airport whose zone is a typing error."""
    flights_conn.execute("UPDATE airports SET tzone = 'America/New_Yrok' WHERE faa = 'HPN'")
    job = FillDepartsAt()
    job.setup(flights_conn)
    return job


def sql_of(job: type[Job]) -> Sql:
    """What the job declares as its transform."""
    transform = vars(job)["transform"]
    assert isinstance(transform, Sql)
    return transform


def number(conn: Conn, statement: str) -> int:
    row = conn.execute(statement.encode()).fetchone()
    assert row is not None
    return int(row[0])


def test_every_job_has_its_plain_statement_and_its_check() -> None:
    found = registry.load(["jobs"], project=None)
    assert not found.broken
    assert set(flights.PLAIN) == set(flights.CHECKS)
    ours = {name for name, job in found.jobs.items() if job.__module__ == "jobs.flights"}
    assert ours == set(flights.CHECKS)


@pytest.mark.parametrize(
    ("row", "utc"),
    [
        (flight(), "2013-07-01 09:15"),
        (flight(month=1), "2013-01-01 10:15"),
        (flight(month=12, day=31, sched_dep_time=2400), "2014-01-01 05:00"),
        (flight(origin="LAX"), "2013-07-01 12:15"),
        (flight(month=3, day=10, sched_dep_time=230), "2013-03-10 07:30"),
        (flight(month=11, day=3, sched_dep_time=130), "2013-11-03 06:30"),
    ],
    ids=["summer", "winter", "midnight", "another zone", "skipped hour", "repeated hour"],
)
def test_a_flight_departs_by_the_clock_of_its_airport(
    departures: FillDepartsAt, row: Row, utc: str
) -> None:
    expected = datetime.fromisoformat(utc).replace(tzinfo=UTC)
    assert departures.transform(row) == {"departs_at": expected}


def test_a_flight_without_a_schedule_is_left_as_it_is(departures: FillDepartsAt) -> None:
    assert departures.transform(flight(sched_dep_time=None)) is None


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (flight(origin="XXX"), "airport XXX has no known time zone"),
        (flight(origin="YAK"), "airport YAK has no known time zone"),
        (flight(origin="HPN"), "airport HPN has no known time zone"),
        (flight(sched_dep_time=1260), "no such local time: no clock shows 1260"),
        (flight(sched_dep_time=-1), "no such local time: no clock shows -001"),
        (flight(month=2, day=29), "no such local time: "),
    ],
    ids=["unknown airport", "no zone", "misspelt zone", "minute 60", "negative", "29 February"],
)
def test_a_flight_that_cannot_be_told_is_put_in_quarantine_with_the_reason(
    departures: FillDepartsAt, row: Row, reason: str
) -> None:
    with pytest.raises(Quarantine, match=f"^{reason}"):
        departures.transform(row)


def test_the_carriers_expression_gives_what_the_check_wants(flights_conn: Conn) -> None:
    assert FillCarrierId.target == Update()
    expression = sql_of(FillCarrierId).expressions["carrier_id"]
    flights_conn.execute(f"UPDATE flights SET carrier_id = {expression}".encode())
    assert number(flights_conn, flights.CHECKS["fill_carrier_id"]) == 0


def test_the_splits_expressions_give_what_the_check_wants(flights_conn: Conn) -> None:
    assert SplitFlightTimes.target == Insert("flight_times", on_conflict="skip")
    expressions = sql_of(SplitFlightTimes).expressions
    flights_conn.execute(
        f"INSERT INTO flight_times ({', '.join(expressions)})"
        f" SELECT {', '.join(expressions.values())} FROM flights".encode()
    )
    assert number(flights_conn, flights.CHECKS["split_flight_times"]) == 0
