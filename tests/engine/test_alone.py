"""Sources of which nothing can be locked: queries that name no table, views, foreign tables.

Their rows are read without locks and inserted elsewhere, or called for; no index says that their
keys are unique and NOT NULL. What is expected is always one plain SELECT.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any, ClassVar

import pytest

from backfill.engine import lifecycle
from backfill.engine.work import work
from backfill.errors import BackfillError, DeclarationError, ProjectError, UsageError
from backfill.job import Bounds, Call, Delete, Insert, Job, Options, Param, Query, Row, Sql, Table
from backfill.job import Update as UpdateTarget
from backfill.model import Counts
from backfill.settings import EngineSettings
from tests.engine.factory import AtVisit, Worksite
from tests.engine.strikes import POINTS, Blow, Strike, work_through

TINY = Options(batch_rows=3, slice_rows=8, concurrency=1)
BY_MONTH = """
SELECT region, month, sum(amount) AS amount, count(*) AS sales, min(note) AS note
  FROM sale WHERE amount >= %(least)s GROUP BY region, month
"""


@pytest.fixture
def shop(site: Worksite) -> Worksite:
    """600 sales in 5 regions and 12 months: 60 groups; half of the sales are of 0 or less."""
    site.execute(
        """
        CREATE TABLE sale (id bigint PRIMARY KEY, region text COLLATE "C" NOT NULL, month int,
                           amount numeric NOT NULL, note char(4));
        INSERT INTO sale SELECT i, 'r' || i % 5, i % 12,
            CASE WHEN i % 2 = 0 THEN -(i % 3) ELSE i END, 'x' FROM generate_series(1, 600) i;
        CREATE TABLE total (region text, month int, amount numeric, sales bigint, note text);
        ANALYZE sale;
        """
    )
    return site


def totals(site: Worksite, where: str = "TRUE", amount: str = "sum(amount)") -> list[Any]:
    """What one plain SELECT says."""
    return site.rows(
        f"SELECT region, month, {amount}, count(*) FROM sale WHERE amount >= 0 AND {where}"
        " GROUP BY 1, 2 ORDER BY 1, 2"
    )


def written(site: Worksite) -> list[Any]:
    """What the runs have written; a row written twice is here twice."""
    return site.rows("SELECT region, month, amount, sales FROM total ORDER BY 1, 2")


class Copy(Job):
    source = Query(BY_MONTH, key=["region", "month"])
    target = Insert("total", on_conflict="error")
    least = Param(int, default=0)


class CopyInSql(Job):
    source = Query(BY_MONTH, key=["region", "month"])
    transform = Sql(
        region="region", month="month", amount="amount * %(factor)s", sales="sales", note="note"
    )
    target = Insert("total", on_conflict="error")
    least = Param(int, default=0)
    factor = Param(int, default=2)


class CopyInPython(Job):
    source = Query(BY_MONTH, key=["region", "month"])
    target = Insert("total", on_conflict="error")
    least = Param(int, default=0)

    def transform(self, row: Row) -> Iterator[dict[str, object]]:
        yield {name: row[name] for name in ("region", "month", "sales")} | {"amount": row.amount}


@pytest.mark.parametrize(
    ("job", "amount"),
    [(Copy, "sum(amount)"), (CopyInSql, "2 * sum(amount)"), (CopyInPython, "sum(amount)")],
)
def test_each_row_of_a_query_that_groups_is_inserted_once(
    shop: Worksite, job: type[Job], amount: str
) -> None:
    done = shop.run(job, options=TINY, threads=2)
    assert (done.state, done.pauses) == ("succeeded", [])
    assert done.counts == Counts(paged=len(written(shop)), written=len(written(shop)))
    assert written(shop) == totals(shop, amount=amount)
    assert (done.run.total_rows, done.run.total_is_exact) == (done.counts.paged, True)
    # as in a plain INSERT of a char(4) into a text
    if job is not CopyInPython:
        assert shop.rows("SELECT DISTINCT note FROM total") == [("x",)]


def test_parameters_reach_every_statement_of_a_query(shop: Worksite) -> None:
    done = shop.run(Copy, options=TINY, params={"least": 100})
    assert done.state == "succeeded"
    assert written(shop) == totals(shop, "amount >= 100")
    assert done.run.resolved.key_types == ("text", "integer")


@pytest.mark.parametrize(
    ("bounds", "where"),
    [
        (Bounds(from_key=["r1", 7]), "(region, month) >= ('r1', 7)"),
        (Bounds(to_key=["r1", 7]), "(region, month) < ('r1', 7)"),
        (
            Bounds(from_key=["r1", 7], to_key=["r3", 0]),
            "(region, month) >= ('r1', 7) AND (region, month) < ('r3', 0)",
        ),
    ],
    ids=str,
)
def test_a_part_of_a_query_is_taken_from_a_key_and_up_to_one(
    shop: Worksite, bounds: Bounds, where: str
) -> None:
    done = shop.run(Copy, options=TINY, bounds=bounds, threads=2)
    assert done.state == "succeeded"
    assert written(shop) == totals(shop, where)


def test_a_part_of_a_query_is_taken_up_to_a_number_of_rows(shop: Worksite) -> None:
    done = shop.run(Copy, options=TINY, bounds=Bounds(limit=20), threads=2)
    assert done.counts == Counts(paged=20, written=20)
    assert len(set(written(shop))) == 20
    with pytest.raises(UsageError, match="does not come before"):
        shop.enqueue(Copy, bounds=Bounds(from_key=["r1", 7], to_key=["r1", 7]))


class Announce(Job):
    source = Query(BY_MONTH, key=["region", "month"])
    target = Call()
    least = Param(int, default=0)
    told: ClassVar[list[tuple[str, int, int]]] = []

    def transform(self, row: Row) -> None:
        self.told.append((row.region, row.month, row.sales))


def test_a_call_is_made_for_each_row_of_a_query(shop: Worksite) -> None:
    Announce.told.clear()
    done = shop.run(Announce, options=TINY)
    assert done.state == "succeeded"
    assert Announce.told == [(r, m, n) for r, m, _, n in totals(shop)]


#: What is made of sales; each is read as if it were a table.
MADE = {
    "view": "CREATE VIEW source AS {query}",
    "materialized view": "CREATE MATERIALIZED VIEW source AS {query};"
    " CREATE UNIQUE INDEX ON source (region, month); ANALYZE source",
    "foreign table": "CREATE VIEW made AS {query}; CREATE EXTENSION postgres_fdw;"
    " CREATE SERVER there FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({server});"
    " CREATE USER MAPPING FOR CURRENT_USER SERVER there OPTIONS (user '{user}');"
    ' CREATE FOREIGN TABLE source (region text COLLATE "C", month int, amount numeric,'
    " sales bigint, note char(4)) SERVER there OPTIONS (table_name 'made')",
}


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("in_python", [False, True])
def test_what_is_no_table_is_copied_as_if_it_were_one(
    shop: Worksite, kind: str, in_python: bool
) -> None:
    make(shop, kind)
    parts: dict[str, object] = {
        "source": Table("source", key=["region", "month"], where="sales > %(least)s"),
        "target": Insert("total", on_conflict="error"),
        "least": Param(int, default=0),
    }
    if in_python:
        parts["transform"] = lambda self, row: dict(row)
    done = shop.run(type("Take", (Job,), parts), options=TINY, threads=2)
    assert (done.state, done.pauses) == ("succeeded", [])
    assert written(shop) == totals(shop)
    assert done.counts.written == len(totals(shop))


def make(site: Worksite, kind: str) -> None:
    """Make a view, a materialized view or a foreign table of what the query gives."""
    info = site.conn.info
    query = BY_MONTH.replace("%(least)s", "0")
    server = f"host '{info.host}', port '{info.port}', dbname '{info.dbname}'"
    for part in MADE[kind].split(";"):
        site.execute(part.format(query=query, server=server, user=info.user))


def test_a_file_is_copied_through_a_foreign_table(shop: Worksite) -> None:
    """file_fdw sorts the file anew for each page; a program stands for the file."""
    shop.execute("CREATE EXTENSION file_fdw; CREATE SERVER files FOREIGN DATA WRAPPER file_fdw")
    shop.execute(
        "CREATE FOREIGN TABLE lines (month int) SERVER files OPTIONS (program 'seq 1 50 | tac')"
    )
    job = type(
        "Lines",
        (Job,),
        {"source": Table("lines", key="month"), "target": Insert("total", on_conflict="skip")},
    )
    done = shop.run(job, options=TINY)
    assert done.counts == Counts(paged=50, written=50)
    assert shop.rows("SELECT count(*), count(DISTINCT month) FROM total") == [(50, 50)]


#: Keys whose text, order or type is easily mistaken.
KEYS = {
    "numeric": ["NaN", "-Infinity", "1.50", "1e-30", "-7"],
    "timestamptz": ["infinity", "-infinity", "0044-03-15 00:00:00+00 BC", "2013-01-01 05:00+02"],
    "text": ["", "%s", 'a"b', "ä", "Z", "a", "{NULL}", "\\"],
    "uuid": ["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
    "date": ["infinity", "4713-01-01 BC", "2024-02-29"],
    "bytea": ["\\x", "\\x00ff"],
    "boolean": ["true", "false"],
    "mood": ["sad", "ok", "happy"],
    "shout": ["A", "B"],
    "inet": ["10.0.0.1", "10.0.0.0/8", "::1"],
    "interval": ["1 mon", "30 days 00:00:01", "-1 year"],
}


def test_keys_of_every_type_are_walked_in_postgresqls_order(site: Worksite) -> None:
    """I6: types come from the query's description, a domain as what it is made of."""
    site.execute("CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy')")
    site.execute("CREATE DOMAIN shout AS text CHECK (VALUE = upper(VALUE))")
    for i, (type_, values) in enumerate(KEYS.items()):
        site.execute(f'CREATE TABLE u{i} ("odd % key" {type_}, part int)')
        site.execute(f"CREATE TABLE k{i} AS TABLE u{i}")
        for value in values:
            site.execute(f"INSERT INTO k{i} SELECT %s, i FROM generate_series(1, 3) i", value)
        parts: dict[str, object] = {
            "source": Query(f"SELECT * FROM k{i} OFFSET 0", key=["odd % key", "part"]),
            "target": Insert(f"u{i}", on_conflict="error"),
        }
        done = site.run(type(f"Keys{i}", (Job,), parts), options=TINY)
        assert (type_, done.state, done.pauses) == (type_, "succeeded", [])
        assert site.value(f"SELECT count(*) FROM (TABLE u{i} EXCEPT ALL TABLE k{i}) AS more") == 0
        assert done.counts.written == 3 * len(values)


#: Where the NULL is: sorted before or behind other keys, in whichever column.
NULLS = [
    ("month", "NULL"),
    ("region, month", "NULL, NULL"),
    ("region, month", "'r1', NULL"),
    ("region, month", "'r9', NULL"),
    ("region, month", "NULL, 3"),
]


@pytest.mark.parametrize(("columns", "values"), NULLS)
@pytest.mark.parametrize("batch_rows", [1, 100])
def test_a_key_with_a_null_stops_the_run_and_is_named(
    shop: Worksite,
    columns: str,
    values: str,
    batch_rows: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also where no row comparison would ever find it: behind a page that ends within its group."""
    shop.execute("ALTER TABLE sale ALTER region DROP NOT NULL")
    shop.execute(f"INSERT INTO sale (id, {columns}, amount) VALUES (601, {values}, 5)")
    parts: dict[str, object] = {
        "source": Query(
            f"SELECT {columns}, sum(amount) AS amount FROM sale GROUP BY {columns}",
            key=columns.split(", "),
        ),
        "target": Insert("total", on_conflict="error"),
    }
    options = Options(batch_rows=batch_rows, slice_rows=7, concurrency=1)
    done = shop.run(type("Nulls", (Job,), parts), options=options)
    assert done.state == "paused"
    assert f"; for example ({values.replace(chr(39), '')})" in done.why_paused
    assert " of the key is NULL in a row" in done.why_paused
    # keys are values of rows: the log does not have them
    assert done.event("run.paused").detail["reason"] in done.why_paused
    assert "; for example" not in capsys.readouterr().out
    # what cannot be named any more is not lost either: mended, it goes on to all of them
    shop.execute("DELETE FROM sale WHERE id = 601")
    shop.lift(done.run)
    assert shop.work(type("Nulls", (Job,), parts), done.run).state == "succeeded"
    groups = shop.value(f"SELECT count(*) FROM (SELECT FROM sale GROUP BY {columns}) AS g")
    assert shop.value("SELECT count(*) FROM total") == groups


@pytest.mark.parametrize("batch_rows", [1, 100])
def test_a_null_in_a_row_that_is_not_ours_stops_nothing(shop: Worksite, batch_rows: int) -> None:
    """Neither at the end of a slice, nor at the run's, nor as the last key that is looked at."""
    shop.execute("ALTER TABLE sale ALTER region DROP NOT NULL")
    for values in ("NULL, NULL", "'r1', NULL", "'r4', NULL", "NULL, 3"):
        shop.execute(
            f"INSERT INTO sale (id, region, month, amount) SELECT 601 + count(*), {values}"
            ", 5 FROM sale"
        )
    shop.execute(
        "CREATE VIEW source AS SELECT region, month, sum(amount) AS amount, count(*) AS"
        " sales FROM sale WHERE amount >= 0 GROUP BY region, month"
    )
    where = "region IS NOT NULL AND month IS NOT NULL"
    job = _of(Table("source", key=["region", "month"], where=where))
    done = shop.run(job, options=Options(batch_rows=batch_rows, slice_rows=7, concurrency=1))
    assert (done.state, done.pauses) == ("succeeded", [])
    assert written(shop) == totals(shop, where)


TWICE = "SELECT month, 1 AS sales FROM (VALUES {values}) AS v (month)"


@pytest.mark.parametrize("values", ["(1), (2), (3), (4), (4), (5)", "(1.0), (1.00), (2)"])
def test_a_key_that_two_rows_have_stops_the_run_wherever_a_page_ends(
    shop: Worksite, values: str
) -> None:
    key = "4" if "4" in values else "1.0"
    parts: dict[str, object] = {
        "source": Query(TWICE.format(values=values), key="month"),
        "target": Insert("total", on_conflict="error"),
    }
    for batch_rows, slice_rows in product([1, 2, 3, 100], [2, 3, 100]):
        options = Options(batch_rows=batch_rows, slice_rows=slice_rows, concurrency=1)
        done = shop.run(type("Twice", (Job,), parts), options=options)
        assert f"error: two rows have the same key (month); for example ({key}" in done.why_paused
        met = [row[0] for row in shop.rows("SELECT month FROM total ORDER BY 1")]
        assert met == [n for n in (1, 2, 3) if n < float(key)][: len(met)]
        shop.execute("DELETE FROM backfill.run; TRUNCATE total")


def test_a_key_of_a_row_that_is_ours_and_of_one_that_is_not_is_met_twice_too(
    shop: Worksite,
) -> None:
    """Behind the last key looked at, which is not ours, there may be a second row that is."""
    parts: dict[str, object] = {
        "source": Query(
            "SELECT i AS month, 1 AS sales FROM generate_series(1, 5000) i"
            " UNION ALL SELECT 5000, 2",
            key="month",
            todo="sales = 2",
        ),
        "target": Insert("total", on_conflict="error"),
    }
    done = shop.run(type("Twice", (Job,), parts), options=Options(batch_rows=10))
    assert "two rows have the same key (month); for example (5000)" in done.why_paused


@pytest.mark.parametrize("job", [Copy, CopyInSql, CopyInPython])
def test_what_is_struck_anywhere_inserts_no_row_twice_and_loses_none(
    shop: Worksite, job: type[Job]
) -> None:
    """I1: insert and cursor are one transaction; the target has no key to save us."""
    run = shop.enqueue(job, options=TINY)
    blows: list[Blow] = ["cut", "vanish", "terminate", "cut", "lose the reply"]
    strikes = [
        Strike(point, 2, blow) for point, blow in zip([*POINTS, "after COMMIT"], blows, strict=True)
    ]
    done = work_through(shop, job, run, threads=2, strikes=strikes)
    assert done.state == "succeeded"
    amount = "2 * sum(amount)" if job is CopyInSql else "sum(amount)"
    assert written(shop) == totals(shop, amount=amount)
    assert done.counts.written == done.counts.paged == len(totals(shop))


def test_a_page_that_takes_longer_than_the_lease_keeps_its_slice(shop: Worksite) -> None:
    """The lease is renewed meanwhile, by the other connection."""
    parts: dict[str, object] = {
        "source": Query(
            "SELECT month, sales FROM (SELECT 1 AS month, 1 AS sales, pg_sleep(1.2) OFFSET 0) AS s",
            key="month",
        ),
        "target": Insert("total", on_conflict="error"),
    }
    settings = EngineSettings(lease_seconds=0.5, sweep_seconds=10.0, begin_wait_seconds=5.0)
    job = type("Slow", (Job,), parts)
    run = shop.enqueue(job, options=Options(concurrency=2))
    done = shop.work(job, run, threads=2, settings=settings)
    assert (done.state, shop.value("SELECT count(*) FROM total")) == ("succeeded", 1)
    assert shop.value("SELECT epoch FROM backfill.slice") == 1


def test_writers_of_the_tables_of_a_query_are_waited_for(shop: Worksite) -> None:
    """I2: what was written before the run began is there to be grouped."""
    with shop.session() as other:
        other.execute("INSERT INTO sale VALUES (0, 'a first one', 1, 1)")
        run = shop.enqueue(Copy, options=TINY)
        with shop.crew(Copy, run):
            shop.until_event(run, "run.waiting")
            other.commit()
    assert shop.outcome(run).state == "succeeded"
    assert written(shop) == totals(shop)
    assert written(shop)[0][0] == "a first one"


class Halve(Job):
    """Fails for one group, where PostgreSQL computes as it reads."""

    source = Query("SELECT month, count(*) AS sales FROM sale GROUP BY month", key="month")
    transform = Sql(month="month", sales="sales / (%(but)s - month)")
    target = Insert("total", on_conflict="error")
    but = Param(int, default=7)


class HalveInPython(Job):
    source = Query("SELECT month, count(*) AS sales FROM sale GROUP BY month", key="month")
    target = Insert("total", on_conflict="error")
    but = 7

    def transform(self, row: Row) -> dict[str, object]:
        return {"month": row.month, "sales": row.sales // (type(self).but - row.month)}


class Unfit(Job):
    """The target refuses one row."""

    source = Query("SELECT month, count(*) AS sales FROM sale GROUP BY month", key="month")
    target = Insert("total", on_conflict="error")


@pytest.mark.parametrize("job", [Halve, HalveInPython, Unfit])
@pytest.mark.parametrize("batch_rows", [1, 5, 100])
def test_a_row_that_fails_is_found_and_is_taken_again_when_it_is_mended(
    shop: Worksite, job: type[Job], batch_rows: int
) -> None:
    shop.execute("ALTER TABLE total ADD CHECK (month <> 7 OR sales <> 50)")
    if job is not Unfit:
        shop.execute("ALTER TABLE total DROP CONSTRAINT total_check")
    options = replace(TINY, batch_rows=batch_rows)
    run = shop.enqueue(job, options=options)
    done = shop.work(job, run)
    assert done.counts == Counts(paged=12, written=11, quarantined=1)
    assert [row.key for row in done.quarantine] == [("7",)]
    assert shop.value("SELECT count(*) FROM total WHERE month <> 7") == 11
    shop.execute("UPDATE sale SET month = 7 WHERE id = 1")
    shop.execute("UPDATE backfill.run SET params = '{\"but\": 99}' WHERE params ? 'but'")
    run = shop.outcome(run).run
    HalveInPython.but = 99
    try:
        lifecycle.release_quarantine(shop.conn, shop.ledger, run.id, by="Ada")
        done = shop.work(job, run)
    finally:
        HalveInPython.but = 7
    assert (done.state, done.counts) == ("succeeded", Counts(paged=12, written=12))
    assert shop.rows("SELECT count(*), count(DISTINCT month) FROM total") == [(12, 12)]


def test_a_quarantined_row_that_the_query_gives_no_more_is_gone(shop: Worksite) -> None:
    run = shop.enqueue(Halve, options=TINY)
    assert shop.work(Halve, run).counts.quarantined == 1
    shop.execute("DELETE FROM sale WHERE month = 7")
    lifecycle.release_quarantine(shop.conn, shop.ledger, run.id, by="Ada")
    done = shop.work(Halve, run)
    assert (done.state, done.counts) == ("succeeded", Counts(paged=12, written=11, gone=1))


class Fill(Job):
    source = Query(
        "SELECT month AS m, count(*) AS sales FROM sale GROUP BY month",
        key="m",
        todo="NOT EXISTS (SELECT FROM total AS t WHERE t.month = m)",
    )
    transform = Sql(month="m", sales="sales")
    target = Insert("total", on_conflict="error")


def test_the_completion_check_asks_the_query_again(shop: Worksite) -> None:
    """I2: what somebody took away behind the cursor is found, and done once more."""
    taken: list[int] = []

    def take_away() -> None:
        shop.execute("DELETE FROM total WHERE month = 1")
        taken.append(1)

    done = shop.run(Fill, options=TINY, probe=AtVisit("after COMMIT", 3, take_away))
    assert (done.state, taken) == ("succeeded", [1])
    assert "slice.rewalked" in done.event_names
    assert shop.rows("SELECT count(*), count(DISTINCT month) FROM total") == [(12, 12)]
    again = shop.run(type("Again", (Fill,), {}), options=TINY)
    assert (again.state, again.counts) == ("succeeded", Counts())


def test_a_paused_run_writes_nothing_more_and_goes_on_where_it_was(shop: Worksite) -> None:
    run = shop.enqueue(Copy, options=TINY)
    probe = AtVisit("after the transform", 2, lambda: shop.pause(run))
    assert shop.work(Copy, run, probe=probe).state == "paused"
    assert shop.value("SELECT count(*) FROM total") == 3
    lifecycle.lift(shop.conn, shop.ledger, run.id, ["user"], by="Ada")  # type: ignore[list-item]
    assert shop.work(Copy, run).state == "succeeded"
    assert written(shop) == totals(shop)


def test_a_query_that_is_too_slow_pauses_the_run_and_says_which_option_helps(
    shop: Worksite,
) -> None:
    parts: dict[str, object] = {
        "source": Query("SELECT 1 AS month FROM pg_sleep(3)", key="month"),
        "target": Insert("total", on_conflict="error"),
    }
    options = Options(statement_timeout_seconds=0.4)
    done = shop.run(type("Slow", (Job,), parts), options=options)
    assert "statement_timeout_seconds" in done.why_paused


def _of(source: Query | Table, target: object = None) -> type[Job]:
    parts: dict[str, object] = {
        "source": source,
        "target": target or Insert("total", on_conflict="error"),
    }
    return type("Take", (Job,), parts)


@pytest.mark.parametrize(
    ("query", "key", "kind", "message"),
    [
        ("SELECT monthh FROM sale", "month", ProjectError, 'column "monthh" does not exist'),
        ("SELECT 1 AS sales", "month", ProjectError, "no column 'month'"),
        ("SELECT 1 AS month, 2 AS month", "month", DeclarationError, "two columns named 'month'"),
        ("SELECT ARRAY[1] AS month", "month", DeclarationError, "arrays and composites"),
        ("SELECT ROW(1) AS month", "month", DeclarationError, "arrays and composites"),
        ("SELECT '{}'::json AS month", "month", ProjectError, "ordering operator for type json"),
        ("SELECT 1 AS a", "a", DeclarationError, "the query and public.total have no column"),
    ],
)
def test_a_query_that_cannot_serve_is_refused_before_the_run(
    shop: Worksite, query: str, key: str, kind: type[BackfillError], message: str
) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        shop.enqueue(_of(Query(query, key=key)))


def test_what_would_need_a_lock_is_refused(shop: Worksite) -> None:
    make(shop, "materialized view")
    view = Table("source", key=["region", "month"])
    for target in (Delete(), Insert("total", on_conflict="error", delete_source=True)):
        with pytest.raises(DeclarationError, match=r"source is no table \(it is a materialized"):
            shop.enqueue(_of(view, target))
    with pytest.raises(DeclarationError, match=r"Update\(\) writes rows of a table"):
        type(
            "Fill",
            (Job,),
            {
                "source": Query("TABLE source", key="region"),
                "target": UpdateTarget(),
                "transform": Sql(note="'x'"),
            },
        )
    with pytest.raises(DeclarationError, match="lock='skip' locks rows of a table, and the query"):
        type(
            "Fill",
            (Job,),
            {
                "source": Query("TABLE source", key="region"),
                "target": Insert("total", on_conflict="skip"),
                "options": Options(lock="skip"),
            },
        )
    with pytest.raises(UsageError, match="lock is 'skip', and rows of what is no table"):
        shop.enqueue(_of(view), options=Options(lock="skip"))
    in_python = type("Python", (_of(view),), {"transform": lambda self, row: dict(row)})
    with pytest.raises(UsageError, match="lock is 'optimistic', which compares a table's columns"):
        shop.enqueue(in_python, options=Options(lock="optimistic"))
    with pytest.raises(DeclarationError, match="has no primary key"):
        shop.enqueue(_of(Table("source")))


def test_a_view_that_becomes_a_table_of_the_run_is_still_read_without_locks(
    shop: Worksite,
) -> None:
    """Nothing of what was resolved is about locks: each workbench looks anew."""
    make(shop, "view")
    job = _of(Table("source", key=["region", "month"]))
    run = shop.enqueue(job, options=TINY)
    bench = shop.bench(job, run)
    bench.probe = AtVisit("after COMMIT", 2, bench.reader.close)
    work(bench, slot=0)
    bench.close()
    assert shop.outcome(run).state == "succeeded"
    assert written(shop) == totals(shop)


def test_no_transaction_is_open_in_the_transform(shop: Worksite) -> None:
    """I5."""
    open_ones: list[int] = []

    class Look(Job):
        source = Query(BY_MONTH, key=["region", "month"])
        target = Insert("total", on_conflict="error")
        least = Param(int, default=0)

        def transform(self, row: Row) -> dict[str, object]:
            open_ones.extend(
                pid
                for (pid,) in shop.rows(
                    "SELECT pid FROM pg_stat_activity WHERE xact_start IS NOT NULL"
                    " AND datname = current_database() AND pid <> pg_backend_pid()"
                    " AND backend_type = 'client backend'"
                )
            )
            return {"region": row.region}

    assert shop.run(Look, options=TINY).state == "succeeded"
    assert open_ones == []
