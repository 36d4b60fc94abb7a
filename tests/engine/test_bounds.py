"""A run of a part of the rows: from a key on, up to a key, at most so many; each exactly once.

PostgreSQL alone reads and compares keys (I6); the limit holds over all workers, whatever dies.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from backfill.engine import lifecycle
from backfill.engine.work import work
from backfill.errors import UsageError
from backfill.job import Bounds, Call, Job, Options, Query, Row, Sql, Table, Update
from backfill.model import PauseCause
from tests import starting
from tests.engine.factory import Gate, Worksite, until
from tests.engine.jobs import (
    CallByAppending,
    Increment,
    IncrementInPython,
    IncrementUnlocked,
    Label,
    LabelInPython,
    Purge,
)

BY_TEN = Options(batch_rows=10, slice_rows=25, concurrency=2)
TINY = Options(batch_rows=2, slice_rows=3, concurrency=1)


def _done(site: Worksite, key: str = "id") -> list[Any]:
    return [row[0] for row in site.rows(f"SELECT {key} FROM t WHERE n = 1 ORDER BY 1")]


@pytest.mark.parametrize("job", [Increment, IncrementInPython, IncrementUnlocked])
@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        (Bounds(from_key=50), range(50, 101)),
        (Bounds(to_key="50"), range(1, 50)),
        (Bounds(from_key=" 20", to_key=30), range(20, 30)),
        (Bounds(from_key=100, to_key=101), [100]),
        (Bounds(from_key=-5, to_key=3), [1, 2]),
        (Bounds(from_key=101), []),
        (Bounds(to_key=1), []),
        (Bounds(from_key=40, to_key=10**18), range(40, 101)),
    ],
    ids=str,
)
def test_exactly_the_keys_from_one_up_to_the_other_are_done(
    site: Worksite, job: type[Job], bounds: Bounds, expected: Sequence[int]
) -> None:
    site.numbers(100)
    done = site.run(job, options=BY_TEN, bounds=bounds, threads=2)
    assert done.state == "succeeded"
    assert _done(site) == list(expected)
    assert done.counts.paged == done.run.total_rows == len(expected)
    assert done.run.total_is_exact


def test_a_query_that_is_read_without_locks_keeps_to_the_first_key(site: Worksite) -> None:
    """The query stands in the table's place then, and its first slice begins where the run does."""
    site.numbers(30)
    called: list[int] = []

    class CallFrom(Job):
        source = Query("SELECT id, n FROM t", key="id", table="t")
        target = Call()

        def transform(self, row: Row) -> None:
            called.append(row.id)

    done = site.run(CallFrom, options=BY_TEN, bounds=Bounds(from_key=11, to_key=21))
    assert (done.state, done.counts.paged) == ("succeeded", 10)
    assert called == [*range(11, 21)]


KEYS: list[tuple[str, str, Bounds, str]] = [
    (
        "text under C, of which all characters are special",
        "k text COLLATE \"C\"; '%', '%(after_0)s', '\\', '''', '\"', '{', ';', ' '",
        Bounds(from_key="%(after_0)s", to_key="\\"),
        "k >= '%(after_0)s' AND k < '\\'",
    ),
    (
        "uuid",
        "k uuid; md5('1')::uuid, md5('2')::uuid, md5('3')::uuid, md5('4')::uuid",
        Bounds(from_key=UUID("a87ff679a2f3e71d9181a67b7542122c")),
        "k >= 'A87FF679-a2f3-e71d-9181-a67b7542122c'",
    ),
    (
        "date",
        "k date; '-infinity', '0044-03-15 BC', '2024-02-29', '2024-03-01', 'infinity'",
        Bounds(from_key="0044-03-15 BC", to_key=date(2024, 3, 1)),
        "k >= '0044-03-15 BC' AND k < '2024-03-01'",
    ),
    (
        "timestamptz, in UTC unless it says otherwise",
        "k timestamptz; '2024-01-01 00:00Z', '2024-01-01 00:30Z', '2024-01-01 01:00Z'",
        Bounds(from_key="2024-01-01 01:30+01", to_key="2024-01-01 01:00"),
        "k = '2024-01-01 00:30Z'",
    ),
    (
        "numeric",
        "k numeric; 'NaN', 0.1, 0.10000000000000000000001, 1e30, -3",
        Bounds(from_key=Decimal("0.10000000000000000000001"), to_key="NaN"),
        "k IN (0.10000000000000000000001, 1e30)",
    ),
    (
        "an enum, in the order of its declaration",
        "k mood; 'sad', 'ok', 'happy'",
        Bounds(from_key="ok"),
        "k IN ('ok', 'happy')",
    ),
]


class _ByKey(Job):
    name = "by_key"
    source = Table("t")
    transform = Sql(n="n + 1")
    target = Update()


@pytest.mark.parametrize(
    ("table", "bounds", "expected"), [k[1:] for k in KEYS], ids=[k[0] for k in KEYS]
)
def test_keys_of_every_type_are_read_and_compared_by_postgresql(
    site: Worksite, table: str, bounds: Bounds, expected: str
) -> None:
    column, values = table.split(";", 1)
    site.execute("CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')")
    site.conn.execute(f"CREATE TABLE t ({column} PRIMARY KEY, n int NOT NULL DEFAULT 0)".encode())
    for value in values.split(", "):
        site.conn.execute(f"INSERT INTO t VALUES ({value})".encode())
    done = site.run(_ByKey, options=TINY, bounds=bounds)
    assert done.state == "succeeded"
    assert site.conn.execute(
        f"SELECT count(*) FILTER (WHERE ({expected}) <> (n = 1)), sum(n) > 0 FROM t".encode()
    ).fetchall() == [(0, True)]


COMPOSITE = [
    (Bounds(from_key=["b", 2], to_key=("c", 2)), [("b", 2), ("b", 3), ("c", 1)]),
    (Bounds(from_key='["b", 2]', to_key='["c", "2"]'), [("b", 2), ("b", 3), ("c", 1)]),
    (Bounds(from_key='["c", 9223372036854775807]'), []),
    (Bounds(to_key=["a", 2]), [("a", 1)]),
]


@pytest.mark.parametrize(("bounds", "expected"), COMPOSITE, ids=lambda value: str(value)[:40])
def test_a_key_of_several_columns_is_a_row_of_values(
    site: Worksite, bounds: Bounds, expected: list[tuple[str, int]]
) -> None:
    site.execute("CREATE TABLE t (a text, b bigint, n int NOT NULL DEFAULT 0, PRIMARY KEY (a, b))")
    site.execute(
        "INSERT INTO t SELECT a, b FROM unnest('{a,b,c}'::text[]) AS a, generate_series(1, 3) AS b"
    )
    assert site.run(_ByKey, options=TINY, bounds=bounds).state == "succeeded"
    assert site.rows("SELECT a, b FROM t WHERE n = 1 ORDER BY 1, 2") == expected


WRONG = [
    ("id bigint", Bounds(from_key="abc"), "--from .*column id is of type bigint: invalid input"),
    ("id bigint", Bounds(to_key="1e3"), "--to .*column id is of type bigint"),
    ("id bigint", Bounds(to_key=2**63), "--to .*bigint: value .* is out of range"),
    ("id bigint", Bounds(from_key="1;DROP TABLE t"), "column id is of type bigint"),
    ("id bigint", Bounds(from_key=""), "column id is of type bigint"),
    ("id bigint", Bounds(from_key="5", to_key="5"), "does not come before"),
    ("id bigint", Bounds(from_key=6, to_key="05"), "does not come before"),
    ("id bigint", Bounds(from_key=[1, 2]), "has 2 values; the key of public.t has 1"),
    ("id date", Bounds(from_key="2023-02-29"), "column id is of type date: date/time field"),
    ("id uuid", Bounds(from_key="1"), "column id is of type uuid"),
    ("id text", Bounds(from_key="a\0b"), "column id is of type text: the text holds"),
    ("id text", Bounds(from_key="a\udcffb"), "column id is of type text: the text holds"),
    ('id text COLLATE "C"', Bounds(from_key="a", to_key="B"), "does not come before"),
    ("id int, b int", Bounds(from_key="5"), r"no JSON array; .* 2 columns: id \(integer\), b"),
    ("id int, b int", Bounds(from_key="[1"), "no JSON array"),
    ("id int, b int", Bounds(from_key="[" * 100_000), "no JSON array"),
    ("id int, b int", Bounds(from_key='{"id": 1, "b": 2}'), "no JSON array"),
    ("id int, b int", Bounds(from_key="[1]"), "has 1 value;"),
    ("id int, b int", Bounds(from_key="[1, null]"), "column b is given null"),
    ("id int, b int", Bounds(from_key="[1, [2]]"), "column b is given an array"),
    ("id int, b int", Bounds(from_key="[1, NaN]"), "column b is of type integer"),
    ("id int, b int", Bounds(from_key="[1, 1.5]"), "column b is of type integer"),
]


def test_a_malformed_key_is_refused_and_names_the_column_and_its_type(site: Worksite) -> None:
    for columns, bounds, told in WRONG:
        names = ", ".join(column.split()[0] for column in columns.split(", "))
        site.execute("DROP TABLE IF EXISTS t")
        site.execute(f"CREATE TABLE t ({columns}, n int NOT NULL DEFAULT 0, PRIMARY KEY ({names}))")
        with pytest.raises(UsageError, match=told):
            site.enqueue(_ByKey, bounds=bounds)
    assert site.rows("SELECT FROM backfill.run") == []


@pytest.mark.parametrize(
    "wrong", [{"limit": 0}, {"limit": -1}, {"limit": True}, {"limit": "5"}, {"from_key": b"1"}]
)
def test_a_bound_of_a_wrong_kind_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Bounds(**wrong)


def test_a_row_that_comes_below_the_first_key_while_it_runs_is_left_alone(site: Worksite) -> None:
    """The run's keys begin with its first key, not behind the largest one that was below it."""
    site.execute("CREATE TABLE t (id numeric PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    site.execute("INSERT INTO t SELECT generate_series(1, 40)")
    run = site.enqueue(_ByKey, options=TINY, bounds=Bounds(from_key=20, to_key=30))
    gate = Gate("before the page")
    with site.crew(_ByKey, run, probe=gate):
        gate.wait()
        site.execute("INSERT INTO t VALUES (19.5), (20.5), (29.5), (30.5)")
        gate.open()
    done = site.outcome(run)
    assert done.state == "succeeded"
    assert [float(key) for key in _done(site)] == [20, 20.5, *range(21, 30)]


# --------------------------------------------------------------------------- at most so many rows

JOBS = [Increment, IncrementInPython, IncrementUnlocked, Label, LabelInPython, Purge]


@pytest.mark.parametrize("job", JOBS)
def test_a_limit_is_kept_exactly_by_several_workers(site: Worksite, job: type[Job]) -> None:
    """The completion check has no complaint of the rows that were not reached."""
    site.numbers(300)
    left = 300
    for limit in (1, 166):
        done = site.run(job, options=BY_TEN, bounds=Bounds(limit=limit), threads=2)
        assert done.state == "succeeded"
        assert done.counts.written == done.counts.paged == done.run.total_rows == limit
        assert done.event("run.succeeded").detail["limit"] == limit
        assert done.run.passes == 0
        left -= limit
    if job is Purge:
        assert site.value("SELECT count(*) FROM t") == left
    elif job in (Label, LabelInPython):
        assert site.value("SELECT count(*) FROM t WHERE label IS NULL") == left
    else:
        assert site.value("SELECT sum(n) FROM t") == 167


def test_a_limit_beyond_the_rows_changes_nothing(site: Worksite) -> None:
    site.numbers(60)
    done = site.run(Label, options=BY_TEN, bounds=Bounds(limit=61), threads=2)
    assert (done.state, done.counts.written, done.run.total_rows) == ("succeeded", 60, 60)
    assert "limit" not in done.event("run.succeeded").detail


def test_a_limit_counts_from_the_first_key_in_order_with_one_slot(site: Worksite) -> None:
    site.numbers(100)
    one = Options(batch_rows=10, slice_rows=25, concurrency=1)
    bounds = Bounds(from_key=31, to_key=90, limit=32)
    assert site.run(Increment, options=one, bounds=bounds).state == "succeeded"
    assert _done(site) == list(range(31, 63))


def test_what_one_slice_leaves_over_goes_to_another(site: Worksite) -> None:
    """Reserved by others is not used up: as long as there are rows, the limit is reached."""
    site.numbers(100)
    site.execute("UPDATE t SET label = 'theirs' WHERE id BETWEEN 3 AND 50")
    options = Options(batch_rows=5, slice_rows=50, concurrency=2)
    run = site.begun(Label, options=options, bounds=Bounds(limit=40))
    gate = Gate("before the page")
    with site.crew(Label, run, probe=gate):
        gate.wait()  # the first slice has reserved 20 rows, and has two
        other = site.bench(Label, run)

        def has_taken_the_rest() -> bool:
            work(other, slot=1, budget_seconds=0.4)
            return bool(site.value("SELECT count(*) FROM t WHERE label = 'row ' || id") >= 20)

        until(has_taken_the_rest, what="the other slot")
        work(other, slot=1, budget_seconds=0.4)
        other.conn.close()
        assert site.value("SELECT count(*) FROM t WHERE label = 'row ' || id") == 20
        gate.open()
    done = site.outcome(run)
    assert (done.state, done.counts.written) == ("succeeded", 40)


def test_rows_that_others_hold_count_and_are_swept(site: Worksite) -> None:
    """A deferred row has been taken from the limit once; the sweep takes nothing from it."""
    site.numbers(100)
    run = site.enqueue(Increment, options=BY_TEN, bounds=Bounds(to_key=50, limit=40))
    with site.session() as other:
        other.execute("SELECT FROM t WHERE id IN (1, 2, 3, 30) FOR UPDATE")
        with site.crew(Increment, run, threads=2):
            walked = site.until_state(run, "sweeping")
            assert walked.counts.paged == 40
            other.commit()
    done = site.outcome(run)
    assert (done.state, done.counts.written, done.counts.paged) == ("succeeded", 40, 40)


def test_rows_that_others_undo_do_not_come_on_top_of_the_limit(site: Worksite) -> None:
    """The completion check finds them; nothing is left of the limit to do them with."""
    site.numbers(100)
    one = Options(batch_rows=10, slice_rows=25, concurrency=1)
    run = site.enqueue(Label, options=one, bounds=Bounds(limit=40))
    gate = Gate("before the checkpoint", visit=2)
    with site.crew(Label, run, probe=gate):
        gate.wait()
        site.execute("UPDATE t SET label = NULL WHERE id <= 5")
        gate.open()
        done = site.until_state(run, "failed", "succeeded")
    assert (done.state, done.run.passes) == ("succeeded", 1)
    assert done.counts.written == done.counts.paged == 40


def test_pausing_resuming_failing_and_retrying_keep_the_limit(site: Worksite) -> None:
    site.numbers(200)
    run = site.enqueue(Increment, options=BY_TEN, bounds=Bounds(from_key=11, limit=120))
    gate = Gate("before COMMIT", visit=3)
    with site.crew(Increment, run, threads=2, probe=gate):
        gate.wait()
        site.pause(run)
        gate.open()
    assert site.outcome(run).state == "paused"
    site.lift(run, PauseCause.USER)
    gate = Gate("before COMMIT", visit=3)
    with site.crew(Increment, run, threads=2, probe=gate):
        gate.wait()
        gate.open()
        lifecycle.fail(site.conn, site.ledger, run.id, reason="a test's", by="the test")
    assert site.outcome(run).counts.written < 120
    lifecycle.retry(
        site.conn, site.ledger, run.id, by="the test", relation="public.t", columns=["n"]
    )
    done = site.work(Increment, run, threads=2)
    assert (done.state, done.counts.written) == ("succeeded", 120)
    assert site.value("SELECT sum(n) FROM t") == 120
    assert site.value("SELECT sum(n) FROM t WHERE id < 11") == 0


def test_calls_are_not_made_beyond_the_limit(site: Worksite, tmp_path: Path) -> None:
    """Call's effect stays when a batch is rolled back: rows are reserved before they are called."""
    site.numbers(200)
    calls = tmp_path / "calls"
    options = Options(batch_rows=10, slice_rows=25, concurrency=3, lock="optimistic")
    bounds = Bounds(limit=45)
    done = site.run(
        CallByAppending, options=options, bounds=bounds, threads=3, params={"path": str(calls)}
    )
    assert (done.state, done.counts.written) == ("succeeded", 45)
    assert len(calls.read_text().splitlines()) == 45


#: Rows are reserved, and none is read; a batch has used some of them.
POINTS = ("before the page", "after COMMIT")


def test_the_limit_is_exact_though_processes_die_at_each_point(site: Worksite) -> None:
    """I1: what a killed process had reserved stands in its slice, and is used by the next."""
    site.numbers(400)
    run = site.enqueue(
        Increment,
        options=Options(batch_rows=10, slice_rows=40, concurrency=2),
        bounds=Bounds(from_key=101, to_key=350, limit=133),
    )
    for visit, point in enumerate(POINTS, start=2):
        assert _work(site, run.id, point, visit) == -signal.SIGKILL
        assert site.outcome(run).state == "running"
    assert _work(site, run.id) == 0
    done = site.outcome(run)
    assert (done.state, done.counts.written) == ("succeeded", 133)
    assert site.rows("SELECT sum(n), max(n), min(id) >= 101 FROM t WHERE n > 0") == [(133, 1, True)]


def _work(site: Worksite, run: str, point: str = "", visit: int = 0) -> int:
    died = [point, str(visit)] if point else []
    return starting.run(
        ["-m", "tests.engine.crash_worker", site.url, run, "Increment", *died],
        folder=Path(__file__).parents[2],
        environ=os.environ,
    ).returncode


def test_a_batch_that_would_page_more_than_is_reserved_is_rolled_back(site: Worksite) -> None:
    """Rows that others make ours between two statements come on top of the page."""
    site.numbers(30)
    site.execute("UPDATE t SET label = 'theirs' WHERE id = 2")
    one = Options(batch_rows=10, slice_rows=30, concurrency=1)
    run = site.enqueue(Label, options=one, bounds=Bounds(limit=10))
    with site.session() as other:
        other.execute("SELECT FROM t WHERE id = 1 FOR UPDATE")  # so that the batch looks for others

        def make_ours() -> None:
            site.execute("UPDATE t SET label = NULL WHERE id = 2")

        gate = Gate("after the write")
        with site.crew(Label, run, probe=gate):
            gate.wait()
            make_ours()
            gate.open()
            site.until_state(run, "sweeping")
            other.commit()
    done = site.outcome(run)
    assert (done.state, done.counts.paged) == ("succeeded", 10)


@pytest.mark.parametrize("seed", range(3))
def test_any_limit_over_any_scope_is_kept(site: Worksite, seed: int) -> None:
    dice = random.Random(seed)
    site.numbers(400)
    site.execute(f"UPDATE t SET label = 'theirs' WHERE id % {dice.randint(2, 9)} <> 0")
    ours = site.value("SELECT count(*) FROM t WHERE label IS NULL")
    while ours:
        limit = dice.randint(1, 90)
        options = Options(
            batch_rows=dice.randint(1, 40),
            slice_rows=dice.randint(5, 120),
            concurrency=dice.randint(1, 4),
        )
        done = site.run(
            Label, options=options, bounds=Bounds(limit=limit), threads=options.concurrency
        )
        assert (done.state, done.counts.written) == ("succeeded", min(limit, ours)), (seed, options)
        ours -= done.counts.written
    assert site.value("SELECT count(*) FROM t WHERE label IS NULL") == 0
