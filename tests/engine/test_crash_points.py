"""I1: a process may die at any point of a batch; every row is written exactly once all the same.

`n = n + 1` without a todo: the rows themselves do not tell what was done, only the ledger does.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from backfill.job import Job, Options
from tests import starting
from tests.engine.factory import Worksite
from tests.engine.jobs import Increment, IncrementInPython

#: As in engine/batch.py and engine/work.py; the process is killed at each, one after the other.
POINTS = (
    "before the page",
    "after the write",
    "before COMMIT",
    "after COMMIT",
    "before the checkpoint",
)
ROWS = 400

KEYS = {
    "bigint": "CREATE TABLE t AS SELECT i::bigint AS id FROM generate_series(1, {rows}) AS i",
    "uuid": "CREATE TABLE t AS SELECT md5(i::text)::uuid AS id FROM generate_series(1, {rows}) i",
    # duplicates in the first column, and texts whose order is not the numbers'
    "int, text": "CREATE TABLE t AS SELECT i % 7 AS a, 'k' || i AS b"
    " FROM generate_series(1, {rows}) AS i",
}


@pytest.mark.parametrize("job", [Increment, IncrementInPython])
@pytest.mark.parametrize("key", KEYS)
def test_every_row_is_written_once_though_processes_die_at_each_point(
    site: Worksite, key: str, job: type[Job]
) -> None:
    """I1."""
    columns = "a, b" if key == "int, text" else "id"
    site.execute(KEYS[key].format(rows=ROWS))
    site.execute("ALTER TABLE t ADD COLUMN n int NOT NULL DEFAULT 0")
    site.execute(f"ALTER TABLE t ADD PRIMARY KEY ({columns})")
    run = site.enqueue(job, options=Options(batch_rows=20, slice_rows=150))

    for visit, point in enumerate(POINTS, start=2):
        killed = _work(site.url, run.id, job.__name__, point, str(visit))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        # whatever was open when it died has been rolled back before the next one can see it
        written = site.value(
            "SELECT sum(written) FROM (SELECT written FROM backfill.slice ORDER BY number"
            " FOR UPDATE) AS locked"
        )
        assert site.value("SELECT sum(n) FROM t") == written, f"after dying {point}"
        assert site.outcome(run).state == "running"

    finished = _work(site.url, run.id, job.__name__)
    assert finished.returncode == 0, finished.stderr
    done = site.outcome(run)
    assert done.state == "succeeded"
    assert done.counts.written == done.counts.paged == ROWS
    assert site.rows("SELECT n, count(*) FROM t GROUP BY n") == [(1, ROWS)]


def _work(*arguments: str) -> subprocess.CompletedProcess[str]:
    return starting.run(
        ["-m", "tests.engine.crash_worker", *arguments],
        folder=Path(__file__).parents[2],
        environ=os.environ,
    )
