"""Whose fault an error is: each is provoked on a real server, none is made up.

The table on top of pg/failure.py is what is tested here.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import LiteralString

import psycopg
import pytest

from backfill.pg.connect import Connection, Limits, connect, transaction
from backfill.pg.failure import Fault, FaultKind, classify

NO_LIMIT = 30.0

TABLES = """
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE t (
    id int PRIMARY KEY, name varchar(3), age smallint CHECK (age < 200), born date,
    parent int REFERENCES parent, must text NOT NULL DEFAULT '',
    late int UNIQUE DEFERRABLE INITIALLY DEFERRED,
    during int4range, EXCLUDE USING gist (during WITH &&)
);
CREATE INDEX ON t (must);
CREATE FUNCTION long() RETURNS text LANGUAGE sql AS
    $$ SELECT string_agg(md5(i::text), '') FROM generate_series(1, 500) AS i $$;
INSERT INTO t (id, during) VALUES (1, '[1,2)'), (2, '[2,3)');
CREATE VIEW adults AS SELECT * FROM t WHERE age >= 18 WITH CHECK OPTION;
CREATE DOMAIN email AS text CHECK (VALUE LIKE '%@%');
CREATE FUNCTION grumble() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.must = 'grumble' THEN RAISE EXCEPTION 'no, not %', NEW.name; END IF;
    IF NEW.must = 'coded' THEN RAISE EXCEPTION 'no' USING ERRCODE = 'check_violation'; END IF;
    IF NEW.must = 'alone' THEN SELECT id INTO STRICT NEW.age FROM t WHERE id = 99; END IF;
    IF NEW.must = 'crowd' THEN SELECT id INTO STRICT NEW.age FROM t; END IF;
    IF NEW.must = 'doubt' THEN ASSERT NEW.id > 100, 'so small'; END IF;
    IF NEW.must = 'own' THEN RAISE EXCEPTION 'no' USING ERRCODE = 'XY001'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER grumble BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION grumble();
"""


@pytest.fixture
def tables(pg: Connection) -> Connection:
    pg.execute(TABLES)
    return pg


@contextmanager
def raised() -> Iterator[list[psycopg.Error]]:
    """Collects the error that the block raises; it must raise one."""
    caught: list[psycopg.Error] = []
    with pytest.raises(psycopg.Error) as error:
        yield caught
    caught.append(error.value)


def fault_of(
    conn: Connection,
    statement: LiteralString,
    *,
    writing: bool = True,
    arguments: Sequence[object] | Mapping[str, object] | None = None,
) -> Fault:
    with raised() as caught:
        conn.execute(statement, arguments)
    return classify(caught[0], writing=writing, seconds=0.0, timeout=NO_LIMIT)


ROW_ERRORS: list[tuple[LiteralString, str]] = [
    ("UPDATE t SET age = (SELECT id FROM t) WHERE id = 1", "21000"),
    ("UPDATE t SET name = 'long' WHERE id = 1", "22001"),
    ("UPDATE t SET age = 40000 WHERE id = 1", "22003"),
    ("UPDATE t SET age = '40000' WHERE id = 1", "22003"),
    ("UPDATE t SET born = 'tomorrow-ish' WHERE id = 1", "22007"),
    ("UPDATE t SET born = '2026-02-30' WHERE id = 1", "22008"),
    ("UPDATE t SET age = 1 / (id - 1) WHERE id = 1", "22012"),
    ("UPDATE t SET age = name::int FROM (VALUES ('x')) AS v (x) WHERE (v.x)::int = id", "22P02"),
    ("UPDATE t SET must = substring('a' FROM 1 FOR -1) WHERE id = 1", "22011"),
    ("UPDATE t SET must = ('{\"a\": 1'::json)::text WHERE id = 1", "22P02"),
    ("UPDATE t SET must = NULL WHERE id = 1", "23502"),
    ("UPDATE t SET parent = 7 WHERE id = 1", "23503"),
    ("UPDATE t SET id = 2 WHERE id = 1", "23505"),
    ("UPDATE t SET age = 200 WHERE id = 1", "23514"),
    ("UPDATE t SET must = 'a'::email WHERE id = 1", "23514"),
    ("UPDATE t SET during = '[2,9)' WHERE id = 1", "23P01"),
    ("SET CONSTRAINTS ALL IMMEDIATE; UPDATE t SET late = 1", "23505"),
    ("INSERT INTO adults (id, age) VALUES (9, 17)", "44000"),
    ("UPDATE t SET must = 'grumble' WHERE id = 1", "P0001"),
    ("UPDATE t SET must = 'alone' WHERE id = 1", "P0002"),
    ("UPDATE t SET must = 'crowd' WHERE id = 1", "P0003"),
    ("UPDATE t SET must = 'doubt' WHERE id = 1", "P0004"),
    ("UPDATE t SET must = 'coded' WHERE id = 1", "23514"),
    ("UPDATE t SET must = 'own' WHERE id = 1", "XY001"),
    ("UPDATE t SET must = long() WHERE id = 1", "54000"),
]


@pytest.mark.parametrize(("statement", "sqlstate"), ROW_ERRORS)
def test_data_that_cannot_be_written_is_its_rows_fault(
    tables: Connection, statement: LiteralString, sqlstate: str
) -> None:
    fault = fault_of(tables, statement)
    assert (fault.kind, fault.sqlstate) == (FaultKind.ROW, sqlstate)


@pytest.mark.parametrize(("statement", "sqlstate"), ROW_ERRORS)
def test_the_same_error_while_reading_is_nobodys_row(
    tables: Connection, statement: LiteralString, sqlstate: str
) -> None:
    fault = fault_of(tables, statement, writing=False)
    assert (fault.kind, fault.sqlstate) == (FaultKind.STOP, sqlstate)


STOP_ERRORS: list[tuple[LiteralString, str]] = [
    ("UPDATE t SET nmae = 'x'", "42703"),
    ("UPDATE tt SET name = 'x'", "42P01"),
    ("UPDATE t SET name = lowwer(name)", "42883"),
    ("UPDATE t SET age = now()", "42804"),
    ("UPDATE t SET name", "42601"),
    ("SET ROLE pg_monitor; UPDATE t SET name = 'x'", "42501"),
    ("SET transaction_read_only = on; UPDATE t SET name = 'x'", "25006"),
    ("SELECT pg_read_file('no-such-file')", "58P01"),
]


@pytest.mark.parametrize(("statement", "sqlstate"), STOP_ERRORS)
@pytest.mark.parametrize("writing", [True, False])
def test_what_is_wrong_with_the_job_or_the_server_stops_the_run(
    tables: Connection, statement: LiteralString, sqlstate: str, writing: bool
) -> None:
    fault = fault_of(tables, statement, writing=writing)
    assert (fault.kind, fault.sqlstate) == (FaultKind.STOP, sqlstate)


def test_too_little_of_a_resource_stops_the_run(tables: Connection) -> None:
    tables.execute("SET max_stack_depth = '100kB'")
    tables.execute(
        "CREATE FUNCTION deep(n int) RETURNS int LANGUAGE sql AS 'SELECT 1 + deep(n + 1)'"
    )
    fault = fault_of(tables, "UPDATE t SET age = deep(1)")
    assert (fault.kind, fault.sqlstate) == (FaultKind.STOP, "54001")


def test_a_temporary_file_too_many_stops_the_run(tables: Connection) -> None:
    tables.execute("SET temp_file_limit = '100kB'; SET work_mem = '64kB'")
    fault = fault_of(
        tables,
        "UPDATE t SET age = (SELECT count(*) FROM"
        " (SELECT i FROM generate_series(1, 100000) AS i ORDER BY -i OFFSET 1) AS x)",
    )
    assert (fault.kind, fault.sqlstate) == (FaultKind.STOP, "53400")


# --- what passes by itself -----------------------------------------------------------------------


def test_a_lock_that_is_not_to_be_had_in_time_passes(tables: Connection, db_url: str) -> None:
    with psycopg.connect(db_url) as other:
        other.execute("SELECT FROM t WHERE id = 1 FOR UPDATE")
        tables.execute("SET lock_timeout = '20ms'")
        waited = fault_of(tables, "UPDATE t SET name = 'x' WHERE id = 1")
        refused = fault_of(tables, "SELECT FROM t FOR UPDATE NOWAIT", writing=False)
    for fault in (waited, refused):
        assert (fault.kind, fault.sqlstate) == (FaultKind.TRANSIENT, "55P03")


def test_a_deadlock_passes(tables: Connection, db_url: str) -> None:
    with psycopg.connect(db_url) as other:
        tables.execute("SET deadlock_timeout = '10ms'")
        other.execute("SET deadlock_timeout = '1min'")
        tables.execute("BEGIN; UPDATE t SET name = 'x' WHERE id = 1")
        other.execute("UPDATE t SET name = 'y' WHERE id = 2")
        waiting = threading.Thread(
            target=other.execute, args=["UPDATE t SET name = 'y' WHERE id = 1"]
        )
        waiting.start()
        with connect(db_url) as watcher:
            wait_until_blocked(watcher, other.info.backend_pid)
        fault = fault_of(tables, "UPDATE t SET name = 'x' WHERE id = 2")
        tables.execute("ROLLBACK")
        waiting.join()
    assert (fault.kind, fault.sqlstate) == (FaultKind.TRANSIENT, "40P01")


def wait_until_blocked(conn: Connection, pid: int) -> None:
    deadline = time.monotonic() + 30
    while conn.execute("SELECT pg_blocking_pids(%s) <> '{}'", [pid]).fetchone() != (True,):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_serialization_failure_passes(tables: Connection, db_url: str) -> None:
    tables.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM t")
    with psycopg.connect(db_url, autocommit=True) as other:
        other.execute("UPDATE t SET name = 'y'")
    fault = fault_of(tables, "UPDATE t SET name = 'x'")
    tables.execute("ROLLBACK")
    assert (fault.kind, fault.sqlstate) == (FaultKind.TRANSIENT, "40001")


def test_a_backend_that_somebody_ended_passes(tables: Connection, db_url: str) -> None:
    with psycopg.connect(db_url, autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(%s)", [tables.info.backend_pid])
    fault = fault_of(tables, "SELECT 1")
    assert (fault.kind, fault.sqlstate) == (FaultKind.TRANSIENT, "57P01")
    after = fault_of(tables, "SELECT 1")
    assert (after.kind, after.sqlstate) == (FaultKind.TRANSIENT, None)


def test_a_connection_that_is_closed_passes(tables: Connection) -> None:
    tables.close()
    fault = fault_of(tables, "SELECT 1")
    assert (fault.kind, fault.sqlstate) == (FaultKind.TRANSIENT, None)
    assert fault.message == "the connection is closed"


@pytest.mark.parametrize(
    ("setting", "sqlstate"),
    [("idle_in_transaction_session_timeout", "25P03"), ("transaction_timeout", "25P04")],
)
def test_a_transaction_that_was_cut_off_while_idle_passes(
    tables: Connection, setting: LiteralString, sqlstate: str
) -> None:
    if sqlstate == "25P04" and tables.info.server_version < 170000:
        pytest.skip("transaction_timeout came with PostgreSQL 17")
    tables.execute("SET " + setting + " = '10ms'")
    tables.execute("BEGIN")
    wait_until_closed(tables)
    fault = fault_of(tables, "SELECT 1")
    assert (fault.kind, fault.sqlstate) == (FaultKind.TRANSIENT, sqlstate)


def wait_until_closed(conn: Connection) -> None:
    """Until the server has said something unasked and hung up: its socket becomes readable."""
    assert select.select([conn.pgconn.socket], [], [], 30)[0]
    time.sleep(0.05)  # the message and the end of the stream may come one after the other


# --- the same SQLSTATE, two meanings -------------------------------------------------------------


def timed(action: Callable[[], object]) -> tuple[psycopg.Error, float]:
    started = time.monotonic()
    with raised() as caught:
        action()
    return caught[0], time.monotonic() - started


def test_our_own_statement_timeout_is_a_time_out(tables: Connection) -> None:
    limits = Limits(lock_timeout_seconds=0.05, statement_timeout_seconds=0.1)

    def slow() -> None:
        with transaction(tables, limits):
            tables.execute("SELECT pg_sleep(30)")

    error, seconds = timed(slow)
    fault = classify(error, writing=True, seconds=seconds, timeout=0.1)
    assert (fault.kind, fault.sqlstate) == (FaultKind.TIMEOUT, "57014")


def test_somebodys_cancel_stops_the_run(tables: Connection, db_url: str) -> None:
    with psycopg.connect(db_url, autocommit=True) as admin:

        def cancel() -> None:
            sleeping = "SELECT FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
            while not admin.execute(sleeping, [tables.info.backend_pid]).rowcount:
                time.sleep(0.005)
            admin.execute("SELECT pg_cancel_backend(%s)", [tables.info.backend_pid])

        person = threading.Thread(target=cancel)
        person.start()
        error, seconds = timed(lambda: tables.execute("SELECT pg_sleep(30)"))
        person.join()
    fault = classify(error, writing=True, seconds=seconds, timeout=NO_LIMIT)
    assert (fault.kind, fault.sqlstate) == (FaultKind.STOP, "57014")


# --- what is said --------------------------------------------------------------------------------


def test_the_message_may_quote_the_row_and_the_summary_does_not(tables: Connection) -> None:
    fault = fault_of(tables, "UPDATE t SET age = %s WHERE id = 1", arguments=["secret"])
    assert "secret" in fault.message
    assert fault.summary == fault.told == "InvalidTextRepresentation (22P02)"
    fault = fault_of(tables, "UPDATE t SET nmae = 'x'")
    assert fault.told == 'UndefinedColumn (42703): column "nmae" of relation "t" does not exist'


def test_what_the_driver_itself_refuses_stops_the_run(tables: Connection) -> None:
    fault = fault_of(tables, "SELECT %s", arguments=[object()])
    assert (fault.kind, fault.sqlstate) == (FaultKind.STOP, None)
    assert fault.summary == "ProgrammingError"
    fault = fault_of(tables, "SELECT %(a)s", arguments={})
    assert fault.kind is FaultKind.STOP


def test_a_server_that_is_not_there_passes() -> None:
    with raised() as caught:
        psycopg.connect("host=127.0.0.1 port=1 connect_timeout=2")
    fault = classify(caught[0], writing=False, seconds=0.0, timeout=NO_LIMIT)
    assert (fault.kind, fault.sqlstate) == (FaultKind.TRANSIENT, None)
