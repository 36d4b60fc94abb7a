"""Signals of sessions, WAL, tables and batches on a real server; and what a role may not see."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg
import pytest
from psycopg import sql

from backfill.pg.connect import Connection, Limits, application_name, connect, transaction
from backfill.pg.ledger import Ledger, get_run
from backfill.signals import BUILTIN
from tests.pg.holding import insert_run, placed, until
from tests.pg.sampling import HandClock, asked_for, reader_of, sample, value
from tests.services import PostgresServer

LIMITS = Limits(lock_timeout_seconds=0.3, statement_timeout_seconds=30.0)
BLOCKED, ACTIVE, OLDEST = (
    "blocked_seconds",
    "active_sessions_percent",
    "oldest_transaction_seconds",
)
#: Those that need to see other roles' sessions.
GUARDED = {
    *("replication_lag_seconds", "replication_lag_bytes", "vacuums_on_target"),
    *(BLOCKED, ACTIVE, OLDEST),
}


@pytest.fixture
def table(pg: Connection, run: str) -> str:
    """A table of ten rows that the run has claimed to write."""
    pg.execute(
        "CREATE TABLE item (id integer PRIMARY KEY, n integer) WITH (autovacuum_enabled=off)"
    )
    pg.execute("INSERT INTO item SELECT i, 0 FROM generate_series(1, 10) AS i")
    pg.execute("INSERT INTO backfill.write_claim VALUES ('public.item', 'n', %s)", [run])
    return "item"


@contextmanager
def batch(url: str, run: str, statement: str) -> Iterator[Connection]:
    """An open batch of that run, which has executed the statement."""
    with (
        connect(url) as conn,
        transaction(conn, LIMITS, name=application_name(run, 1, 1), run=run, in_batch=True),
    ):
        conn.execute(statement.encode())
        yield conn


@contextmanager
def waiting(pg: Connection, url: str, statement: str, name: str = "shop") -> Iterator[int]:
    """Another session, which waits for a lock in that statement; yields its pid."""
    conn = psycopg.connect(url, autocommit=True, application_name=name)
    thread = threading.Thread(target=conn.execute, args=[statement.encode()], daemon=True)
    thread.start()
    pid = conn.info.backend_pid
    waits = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"
    try:
        until(lambda: pg.execute(waits, [pid]).fetchone() == (True,))
        yield pid
    finally:
        pg.execute("SELECT pg_cancel_backend(%s)", [pid])
        thread.join(30)
        conn.close()


@pytest.fixture(autouse=True)
def quiet_cancels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A waiting session that is cancelled ends its thread with an error, as it should."""
    monkeypatch.setattr(threading, "excepthook", lambda args: None)


# ------------------------------------------------------------------------- who waits for a batch


@pytest.mark.parametrize(
    "statement",
    ["UPDATE item SET n = 2 WHERE id = 5", "ALTER TABLE item ADD COLUMN more integer"],
    ids=["row", "table"],
)
def test_a_session_that_waits_for_a_batch_is_seen_with_its_wait(
    *, pg: Connection, ledger: Ledger, run: str, table: str, db_url: str, statement: str
) -> None:
    with reader_of(asked_for(BLOCKED)) as reader:
        assert value(sample(reader, pg, ledger)[BLOCKED]) == 0
        with (
            batch(db_url, run, "UPDATE item SET n = 1 WHERE id = 5"),
            waiting(pg, db_url, statement) as pid,
        ):
            first = sample(reader, pg, ledger)[BLOCKED]
            assert first.detail == f"pid {pid} of shop"
            until(lambda: value(sample(reader, pg, ledger)[BLOCKED]) > value(first) + 0.05)
        assert value(sample(reader, pg, ledger)[BLOCKED]) == 0


def test_each_run_answers_for_those_who_wait_for_its_own_batches(
    pg: Connection, ledger: Ledger, run: str, table: str, db_url: str
) -> None:
    other = "fill_" + "x" * 70 + "-zzzzz"  # longer than the name that PostgreSQL keeps
    insert_run(pg, other)
    runs = [get_run(pg, ledger, run), get_run(pg, ledger, other)]
    with (
        reader_of(asked_for(BLOCKED)) as reader,
        batch(db_url, other, "UPDATE item SET n = 1 WHERE id = 5"),
        waiting(pg, db_url, "UPDATE item SET n = 2 WHERE id = 5"),
    ):
        until(lambda: (reader.read(pg, ledger, runs)[other][0].value or 0) > 0)
        assert value(reader.read(pg, ledger, runs)[run][0]) == 0


def test_who_waits_for_somebody_else_or_is_ours_does_not_count(
    pg: Connection, ledger: Ledger, run: str, table: str, db_url: str
) -> None:
    with (
        reader_of(asked_for(BLOCKED)) as reader,
        batch(db_url, run, "UPDATE item SET n = 1 WHERE id = 5"),
        psycopg.connect(db_url) as application,
    ):
        application.execute("UPDATE item SET n = 3 WHERE id = 6")
        with (
            waiting(pg, db_url, "UPDATE item SET n = 2 WHERE id = 6"),
            waiting(pg, db_url, "UPDATE item SET n = 2 WHERE id = 5", name="backfill x-12345 1.1"),
        ):
            assert value(sample(reader, pg, ledger)[BLOCKED]) == 0


# ------------------------------------------------------------------------------ the server's load


@pytest.mark.parametrize(("name", "counted"), [("shop", 5), ("backfill x-12345 1.1", 0)])
def test_active_sessions_of_others_are_counted_against_the_connections_that_there_may_be(
    *, pg: Connection, ledger: Ledger, run: str, db_url: str, name: str, counted: int
) -> None:
    with reader_of(asked_for(ACTIVE)) as reader:
        before = sample(reader, pg, ledger)[ACTIVE]
        with waiting_for_advice(pg, db_url, name, sessions=5):
            during = sample(reader, pg, ledger)[ACTIVE]
    row = pg.execute(
        "SELECT current_setting('max_connections')::int"
        " - current_setting('superuser_reserved_connections')::int"
        " - coalesce(current_setting('reserved_connections', true), '0')::int"
    ).fetchone()
    assert row is not None
    grown = (value(during) - value(before)) * row[0] / 100
    assert grown == pytest.approx(counted, abs=2)  # other tests have sessions on this server, too
    assert during.detail.endswith(f" of {row[0]}")


@contextmanager
def waiting_for_advice(pg: Connection, url: str, name: str, *, sessions: int) -> Iterator[None]:
    """So many sessions that wait for an advisory lock: at work, as pg_stat_activity sees it."""
    pg.execute("SELECT pg_advisory_lock(7)")
    with ExitStack() as stack:
        for _ in range(sessions):
            stack.enter_context(waiting(pg, url, "SELECT pg_advisory_lock(7)", name=name))
        yield
    pg.execute("SELECT pg_advisory_unlock(7)")


def test_the_oldest_transaction_of_another_session_of_this_database_is_found(
    pg: Connection, ledger: Ledger, run: str, table: str, db_url: str
) -> None:
    with reader_of(asked_for(OLDEST)) as reader:
        assert value(sample(reader, pg, ledger)[OLDEST]) == 0
        with (
            batch(db_url, run, "UPDATE item SET n = 1 WHERE id = 5"),
            connect(db_url) as ledgers,
            transaction(ledgers),
        ):
            assert value(sample(reader, pg, ledger)[OLDEST]) == 0  # ours do not count
        with psycopg.connect(db_url, application_name="report") as report:
            report.execute("SELECT")
            until(lambda: value(sample(reader, pg, ledger)[OLDEST]) > 0.05)
            detail = sample(reader, pg, ledger)[OLDEST].detail
            assert detail == f"pid {report.info.backend_pid} of report"


def test_wal_is_told_as_a_rate_from_the_first_sample_on(
    pg: Connection, ledger: Ledger, run: str
) -> None:
    clock = HandClock()
    with reader_of(asked_for("wal_bytes_per_second"), clock=clock) as reader:
        name = "wal_bytes_per_second"
        assert value(sample(reader, pg, ledger)[name]) < 10_000_000
        pg.execute("SET synchronous_commit = local")
        pg.execute("SELECT pg_logical_emit_message(true, 'test', repeat('x', 20000000))")
        clock.seconds += 2
        assert 20_000_000 / 2.25 <= value(sample(reader, pg, ledger)[name]) < 20_000_000
        clock.seconds += 20  # another process sampled meanwhile: nothing to compare with
        assert value(sample(reader, pg, ledger)[name]) < 10_000_000


# ----------------------------------------------------------------------- what the run itself does


def test_dead_rows_of_what_the_run_writes_are_told_as_a_share(
    pg: Connection, ledger: Ledger, run: str, table: str
) -> None:
    name = "dead_rows_percent"
    with reader_of(asked_for(name)) as reader:
        pg.execute("UPDATE item SET n = n + 1 WHERE id <= 5")
        pg.execute("SELECT pg_stat_force_next_flush()")
        until(lambda: value(sample(reader, pg, ledger)[name]) == pytest.approx(100 * 5 / 15))
        assert sample(reader, pg, ledger)[name].detail == "5 rows"


def test_dead_rows_of_partitions_count_for_their_table(
    pg: Connection, ledger: Ledger, run: str
) -> None:
    name = "dead_rows_percent"
    pg.execute("CREATE TABLE item (id integer) PARTITION BY RANGE (id)")
    pg.execute("CREATE TABLE item_1 PARTITION OF item FOR VALUES FROM (0) TO (100)")
    pg.execute("ALTER TABLE item_1 SET (autovacuum_enabled = off)")
    pg.execute("INSERT INTO backfill.write_claim VALUES ('public.item', 'id', %s)", [run])
    pg.execute("INSERT INTO item SELECT generate_series(1, 10)")
    pg.execute("DELETE FROM item")
    pg.execute("SELECT pg_stat_force_next_flush()")
    with reader_of(asked_for(name)) as reader:
        until(lambda: value(sample(reader, pg, ledger)[name]) == 100)


def test_a_run_that_writes_no_table_or_a_dropped_one_has_no_dead_rows(
    pg: Connection, ledger: Ledger, run: str, table: str
) -> None:
    names = ("dead_rows_percent", "vacuums_on_target")
    with reader_of(asked_for(*names)) as reader:
        pg.execute("DROP TABLE item")
        assert [value(reading) for reading in sample(reader, pg, ledger).values()] == [0, 0]
        pg.execute("DELETE FROM backfill.write_claim")
        found = sample(reader, pg, ledger)
        assert [(found[name].value, found[name].detail) for name in names] == [
            (0.0, "it writes no table")
        ] * 2


def test_a_vacuum_of_what_the_run_writes_is_seen(
    pg: Connection, ledger: Ledger, run: str, table: str, db_url: str
) -> None:
    name = "vacuums_on_target"
    pg.execute("INSERT INTO item SELECT i, 0 FROM generate_series(11, 30000) AS i")
    pg.execute("DELETE FROM item WHERE id % 2 = 0")
    with (
        reader_of(asked_for(name, OLDEST)) as reader,
        psycopg.connect(db_url, autocommit=True) as other,
    ):
        assert value(sample(reader, pg, ledger)[name]) == 0
        other.execute("SET vacuum_cost_delay = '100ms'; SET vacuum_cost_limit = 1")
        thread = threading.Thread(target=other.execute, args=[b"VACUUM item"], daemon=True)
        thread.start()
        until(lambda: value(sample(reader, pg, ledger)[name]) == 1)
        assert value(sample(reader, pg, ledger)[OLDEST]) == 0  # a VACUUM holds back nobody
        pg.execute("SELECT pg_cancel_backend(%s)", [other.info.backend_pid])
        thread.join(30)


def test_a_row_that_takes_longer_than_usual_is_a_slowdown(
    pg: Connection, ledger: Ledger, run: str
) -> None:
    name = "batch_slowdown"
    placed(pg, ledger, 1, slot=0)

    def committed(seconds: float) -> None:
        pg.execute(
            "UPDATE backfill.slice SET batch_seconds = %s, batch_rows = 1000,"
            " progress_at = clock_timestamp() WHERE run = %s",
            [seconds, run],
        )

    with reader_of(asked_for(name)) as reader:
        assert "no batch" in sample(reader, pg, ledger)[name].detail
        for _ in range(12):
            committed(0.05)
            assert value(sample(reader, pg, ledger)[name]) == 1
        for _ in range(3):
            committed(0.25)
            slow = sample(reader, pg, ledger)[name]
        assert value(slow) == pytest.approx(5)
        assert slow.detail == "250 µs a row"
        pg.execute("UPDATE backfill.slice SET progress_at = progress_at - interval '1 minute'")
        assert value(sample(reader, pg, ledger)[name]) == 1  # a run that stands still goes on


# ----------------------------------------------------------------------------- what a role may see


@contextmanager
def as_role(url: str, role: str, *memberships: str) -> Iterator[Connection]:
    """A connection that acts as this role, which may read the ledger."""
    with connect(url) as conn:
        name = sql.Identifier(role)
        conn.execute(sql.SQL("GRANT USAGE ON SCHEMA backfill TO {}").format(name))
        conn.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA backfill TO {}").format(name))
        for membership in memberships:
            conn.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(membership), name))
        conn.execute(sql.SQL("SET ROLE {}").format(name))
        yield conn


def test_what_a_role_may_not_see_is_a_problem_and_never_a_zero(
    stranger: str, pg: Connection, ledger: Ledger, run: str, db_url: str
) -> None:
    signals = asked_for(*(name for name in BUILTIN if name != "replica_lag_seconds"))
    with as_role(db_url, stranger) as conn, reader_of(signals) as reader:
        found = sample(reader, conn, ledger)
    assert {name for name, reading in found.items() if reading.value is None} == GUARDED
    for name in GUARDED:
        assert f"GRANT pg_read_all_stats TO {stranger}" in found[name].problem


@pytest.mark.parametrize("membership", ["pg_read_all_stats", "pg_monitor"])
def test_the_role_that_the_problem_names_is_enough(
    *, stranger: str, pg: Connection, ledger: Ledger, run: str, db_url: str, membership: str
) -> None:
    signals = asked_for(*(name for name in BUILTIN if name != "replica_lag_seconds"))
    with as_role(db_url, stranger, membership) as conn, reader_of(signals) as reader:
        found = sample(reader, conn, ledger)
    assert [reading.problem for reading in found.values() if reading.problem] == []


def test_without_runs_nothing_is_asked(pg: Connection, ledger: Ledger) -> None:
    with reader_of(asked_for(*BUILTIN)) as reader:
        pg.close()
        assert reader.read(pg, ledger, []) == {}


def test_every_signal_of_ours_can_be_read(pg: Connection, ledger: Ledger, run: str) -> None:
    with reader_of(asked_for(*BUILTIN)) as reader:
        assert list(sample(reader, pg, ledger)) == list(BUILTIN)


def test_a_dead_connection_is_raised_and_not_a_reading(
    pg: Connection, ledger: Ledger, run: str, postgres_server: PostgresServer
) -> None:
    runs = [get_run(pg, ledger, run)]

    with reader_of(asked_for(*BUILTIN)) as reader:
        with psycopg.connect(postgres_server.url(), autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(%s)", [pg.info.backend_pid])
        for _ in range(2):  # when it dies, and when it is dead
            with pytest.raises(psycopg.OperationalError):
                reader.read(pg, ledger, runs)


def test_a_round_leaves_no_transaction_open_and_no_setting_behind(
    pg: Connection, ledger: Ledger, run: str
) -> None:
    with reader_of(asked_for(*BUILTIN)) as reader:
        sample(reader, pg, ledger)
    assert pg.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    assert pg.execute("SHOW transaction_read_only").fetchone() == ("off",)
    assert pg.execute("SHOW application_name").fetchone() == ("backfill",)
