"""The application at work: a real pgbench on a real server, whose log tells the waits."""

from __future__ import annotations

import time

from benchmarks.application import CLIENTS, application
from benchmarks.bed import bed

HELD_SECONDS = 0.5


def test_each_transaction_is_in_the_log_and_a_wait_for_a_lock_of_ours_is_told() -> None:
    with bed() as made:
        made.table(1)  # everybody wants this row
        with application(made, rows=1, rate=None, seconds=1.0) as app:
            with made.conn.transaction():
                made.conn.execute("SELECT FROM people FOR NO KEY UPDATE")
                time.sleep(HELD_SECONDS)
            transactions, waits = app.finish()
        row = made.conn.execute("SELECT n FROM people").fetchone()
        assert row == (len(transactions),)
        # all clients stood behind the one row, those behind another client included
        assert sum(wait > HELD_SECONDS * 1000 * 0.8 for wait in waits) == CLIENTS
        assert max(t.seconds for t in transactions) > HELD_SECONDS * 0.8
