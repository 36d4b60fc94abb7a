"""The ledger is upgraded while a run lives, and the run notices nothing."""

from __future__ import annotations

import threading

import pytest
from psycopg import sql

from backfill.job import Options
from backfill.pg.connect import connect
from tests.engine.factory import Gate, Worksite, until
from tests.engine.jobs import Increment

ROWS = 4_000


def add_columns(url: str) -> None:
    """As a later version's upgrade may: a column more in each table, and a table more.

    It waits for locks as long as it has to, which ours does not.
    """
    with connect(url) as conn:
        tables = conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'backfill'")
        for (table,) in tables.fetchall():
            conn.execute(
                sql.SQL("ALTER TABLE backfill.{} ADD COLUMN later int NOT NULL DEFAULT 7").format(
                    sql.Identifier(table)
                )
            )
        conn.execute("CREATE TABLE backfill.later (id integer)")
        conn.execute("UPDATE backfill.ledger SET version = version + 1")


def test_a_run_lives_through_an_upgrade_of_the_ledger(
    site: Worksite, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the middle of a batch, with statements that are prepared; each row is written once."""
    site.numbers(ROWS)
    run = site.enqueue(Increment, options=Options(batch_rows=20, slice_rows=1_000))
    gate = Gate("after the write", visit=20)
    with site.crew(Increment, run, threads=2, probe=gate):
        gate.wait()
        adding = threading.Thread(target=add_columns, args=[site.url])
        adding.start()
        until(
            lambda: site.value(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND datname = current_database() AND query LIKE %s",
                "%ADD COLUMN later%",
            ),
            what="the upgrade waits for the batch",
        )
        gate.open()
        adding.join()
        assert site.outcome(run).state == "running", "it ended before it could meet the columns"
    outcome = site.outcome(run)
    assert outcome.state == "succeeded", outcome
    assert site.value("SELECT count(*) FROM t WHERE n = 1") == ROWS
    assert site.run(Increment).state == "succeeded"
    # a statement that was prepared and has another result now
    assert "FeatureNotSupported" not in capsys.readouterr().out
