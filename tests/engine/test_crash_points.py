"""I1: a process may die at any point of a batch; every row is written exactly once all the same.

`n = n + 1` without a todo: the rows themselves do not tell what was done, only the ledger does.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from backfill.job import Job, Options
from backfill.model import Counts
from backfill.pg.ledger import Run
from tests import starting
from tests.engine.factory import Worksite
from tests.engine.jobs import (
    CallByAppending,
    Increment,
    IncrementInPython,
    IncrementUnlocked,
    InsertGroups,
    InsertGroupsInPython,
    InsertGroupsInSql,
)

#: As in engine/batch.py and engine/work.py; the process is killed at each, one after the other.
POINTS = (
    "before the page",
    "after the write",
    "before COMMIT",
    "after COMMIT",
    "before the checkpoint",
)
ROWS = 400
UNLOCKED = Options(batch_rows=10, slice_rows=150, lock="optimistic")

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

    for point in _dying_at_each_of(POINTS, site, run, job):
        # whatever was open when it died has been rolled back before the next one can see it
        written = site.value(
            "SELECT sum(written) FROM (SELECT written FROM backfill.slice ORDER BY number"
            " FOR UPDATE) AS locked"
        )
        assert site.value("SELECT sum(n) FROM t") == written, f"after dying {point}"

    done = site.outcome(run)
    assert done.state == "succeeded"
    assert done.counts.written == done.counts.paged == ROWS
    assert site.rows("SELECT n, count(*) FROM t GROUP BY n") == [(1, ROWS)]


UNLOCKED_POINTS = ("before the page", "after the transform", *POINTS[1:])


def test_rows_read_without_locks_are_written_once_though_processes_die_at_each_point(
    site: Worksite,
) -> None:
    """I1, with `lock="optimistic"`."""
    site.numbers(ROWS)
    run = site.enqueue(IncrementUnlocked, options=UNLOCKED)
    for _ in _dying_at_each_of(UNLOCKED_POINTS, site, run, IncrementUnlocked):
        pass
    done = site.outcome(run)
    assert done.state == "succeeded"
    assert done.counts.written == done.counts.paged == ROWS
    assert site.rows("SELECT n, count(*) FROM t GROUP BY n") == [(1, ROWS)]


@pytest.mark.parametrize("job", [InsertGroups, InsertGroupsInSql, InsertGroupsInPython])
def test_groups_of_rows_are_inserted_once_though_processes_die_at_each_point(
    site: Worksite, job: type[Job]
) -> None:
    """I1, of a query that names no table."""
    site.numbers(ROWS)
    site.execute("CREATE TABLE copies (id int, part int)")
    run = site.enqueue(job, options=Options(batch_rows=5, slice_rows=150))
    for point in _dying_at_each_of(UNLOCKED_POINTS, site, run, job):
        written = site.value(
            "SELECT sum(written) FROM (SELECT written FROM backfill.slice ORDER BY number"
            " FOR UPDATE) AS locked"
        )
        assert site.value("SELECT count(*) FROM copies") == written, f"after dying {point}"
    done = site.outcome(run)
    assert (done.state, done.counts) == ("succeeded", Counts(paged=200, written=200))
    assert site.rows("SELECT part, id FROM copies ORDER BY 1, 2") == site.rows(
        "SELECT id % 200, sum(id) FROM t GROUP BY 1 ORDER BY 1"
    )


def test_calls_are_made_at_least_once_and_again_only_in_the_batch_that_died(
    site: Worksite, tmp_path: Path
) -> None:
    """Call: what was called and not recorded is called again, and nothing else is."""
    site.numbers(ROWS)
    calls = tmp_path / "calls"
    run = site.enqueue(CallByAppending, options=UNLOCKED, path=str(calls))
    lost = 0
    for point in _dying_at_each_of(UNLOCKED_POINTS, site, run, CallByAppending):
        lost += 10 if point in {"after the transform", "after the write", "before COMMIT"} else 0
        written = site.value("SELECT sum(written) FROM backfill.slice")
        assert len(calls.read_text().splitlines()) == written + lost, f"after dying {point}"
    done = site.outcome(run)
    assert done.state == "succeeded"
    assert done.counts.written == done.counts.paged == ROWS
    lines = calls.read_text().splitlines()
    assert {int(line) for line in lines} == set(range(1, ROWS + 1))
    assert len(lines) == ROWS + lost


def _dying_at_each_of(
    points: Sequence[str], site: Worksite, run: Run, job: type[Job]
) -> Iterator[str]:
    """Kill a process at each, saying so after it; at last let one come to the end."""
    for visit, point in enumerate(points, start=2):
        killed = _work(site.url, run.id, job.__name__, point, str(visit))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        yield point
        assert site.outcome(run).state == "running"
    finished = _work(site.url, run.id, job.__name__)
    assert finished.returncode == 0, finished.stderr


def _work(*arguments: str) -> subprocess.CompletedProcess[str]:
    return starting.run(
        ["-m", "tests.engine.crash_worker", *arguments],
        folder=Path(__file__).parents[2],
        environ=os.environ,
    )
