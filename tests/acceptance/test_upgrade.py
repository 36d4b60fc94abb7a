"""Workers live through an upgrade of the ledger by a later version, and new ones start after it."""

from __future__ import annotations

from backfill.model import RunState
from tests.acceptance.crew import Crew, each_row_once
from tests.engine.test_ledger_upgrade import add_columns

ROWS = 20_000

JOBS = """
class Count(Job):
    source = Table("item")
    transform = Sql(n="n + 1")
    target = Update()
    options = Options(batch_rows=100, slice_rows=2_000, concurrency=2, rate="3000/s")
"""


def test_workers_work_on_with_a_newer_ledger_to_which_was_only_added(crew: Crew) -> None:
    """Whatever they have prepared; the reconciler, the sampler and the publisher as well."""
    crew.conn.execute("CREATE TABLE item (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    crew.conn.execute(b"INSERT INTO item (id) SELECT i FROM generate_series(1, %s) i", [ROWS])
    crew.write_jobs(JOBS)
    crew.start()
    run = crew.enqueue("count")
    crew.wait_for_rows(run, 6_000)  # each statement has been prepared by then
    add_columns(crew.environ["BACKFILL_DATABASE_URL"])
    before = crew.counts(run).settled
    crew.start()
    crew.wait_for_rows(run, min(ROWS, before + 6_000))
    crew.hurry(run)
    crew.wait_for(run, RunState.SUCCEEDED)
    each_row_once(crew, "item", ["n"], ROWS)
    told = "".join(worker.log.read_text() for worker in crew.workers)
    assert "FeatureNotSupported" not in told
    assert "LedgerError" not in told
