"""`Insert(database=…)`: the source is in another database, the ledger with the target."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from backfill.engine import lifecycle
from backfill.engine.check import Report, check
from backfill.engine.checks.finding import Severity
from backfill.engine.checks.scene import Matching
from backfill.engine.checks.subject import examine
from backfill.errors import DeclarationError, Quarantine, UsageError
from backfill.job import Bounds, Insert, Job, Options, Param, Query, Row, Sql, Table, Update
from backfill.job.declaration import bind, declaration_of
from backfill.model import Counts
from backfill.operate.before import dry_run_job
from backfill.pg.connect import connect
from backfill.project import Project
from backfill.settings import load
from tests.engine.factory import AtVisit, Worksite, until
from tests.engine.strikes import POINTS, Blow, Strike, work_through
from tests.services import PostgresServer

BY_TEN = Options(batch_rows=10, slice_rows=40)


class Across(Worksite):
    """The target's database, and a session in the source's."""

    def __init__(self, url: str, source_url: str) -> None:
        super().__init__(url, source_url=source_url)
        self.there = psycopg.connect(source_url, autocommit=True)

    def close(self) -> None:
        self.there.close()
        super().close()

    def at_source(self, statement: str) -> list[tuple[Any, ...]]:
        cursor = self.there.execute(sql.SQL(statement))
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def across(db_url: str, postgres_server: PostgresServer) -> Iterator[Across]:
    """A hundred rows in the one database, and an empty table without a key in the other."""
    with postgres_server.database() as name:
        site = Across(db_url, postgres_server.url(name))
        site.at_source("CREATE TABLE t (id bigint PRIMARY KEY, n int NOT NULL, label text)")
        site.at_source(
            "INSERT INTO t SELECT i, 100 / (i % 2), NULL FROM generate_series(1, 99, 2) AS i"
        )
        site.at_source("INSERT INTO t SELECT i, 0, 'b' FROM generate_series(2, 100, 2) AS i")
        site.at_source("ANALYZE t")
        site.execute("CREATE TABLE copies (id bigint, n int, label text)")
        yield site
        site.close()


class Copy(Job):
    source = Table("t")
    target = Insert("copies", on_conflict="error", database="there")


class CopyInSql(Job):
    """The expression fails for rows that are not ours."""

    source = Table("t", where="n <> %(not_this)s")
    transform = Sql(id="id", n="100 / n", label="(SELECT max(u.id)::text FROM t u) || %(mark)s")
    target = Insert("copies", on_conflict="error", database="there")

    not_this = Param(int, default=0)
    mark = Param(str, default="%")


class CopyInPython(Job):
    source = Table("t", columns=["n"])
    target = Insert("copies", on_conflict="skip", columns=["id", "n"], database="there")
    is_mended = False

    def transform(self, row: Row) -> Iterator[dict[str, object]]:
        if row.id == 50 and not type(self).is_mended:
            raise Quarantine("half way")
        yield {"id": row.id, "n": row.n}
        yield {"id": row.id, "n": -1}


JOINED = """
SELECT t.id, t.n, o.label || %(mark)s AS label FROM t JOIN t o ON o.id = t.id + 1
 WHERE o.label = 'b'
"""


class CopyQuery(Job):
    """The table's key is walked; of each key the query is asked for its row."""

    source = Query(JOINED, key="id", table="t")
    target = Insert("copies", on_conflict="error", database="there")
    mark = Param(str, default="%")


class CopyQueryAlone(CopyQuery):
    source = Query(JOINED, key="id")


class CopyQueryInSql(CopyQuery):
    transform = Sql(id="id", n="n", label="label")


class CopyQueryInPython(CopyQuery):
    def transform(self, row: Row) -> dict[str, object]:
        return dict(row)


def _once(site: Across) -> bool:
    return site.rows("SELECT count(*), count(DISTINCT id) FROM copies") == [(100, 100)]


def test_rows_are_copied_once_each_by_two_workers(across: Across) -> None:
    done = across.run(Copy, options=BY_TEN, threads=2)
    assert done.state == "succeeded"
    assert done.counts == Counts(paged=100, written=100)
    assert done.run.total_rows == 100
    assert across.rows("SELECT * FROM copies ORDER BY id") == across.at_source(
        "SELECT * FROM t ORDER BY id"
    )


def test_what_postgresql_computes_is_computed_where_the_rows_are(across: Across) -> None:
    done = across.run(CopyInSql, options=BY_TEN)
    assert done.counts == Counts(paged=50, written=50)
    assert across.rows("SELECT DISTINCT n, label FROM copies") == [(1, "100%")]


def test_python_makes_several_rows_of_one_and_quarantine_is_taken_again(across: Across) -> None:
    across.execute("ALTER TABLE copies ADD PRIMARY KEY (id, n)")
    run = across.enqueue(CopyInPython, options=BY_TEN)
    done = across.work(CopyInPython, run)
    assert done.counts == Counts(paged=100, written=99, quarantined=1)
    CopyInPython.is_mended = True
    try:
        lifecycle.release_quarantine(across.conn, across.ledger, run.id, by="Ada")
        done = across.work(CopyInPython, run)
    finally:
        CopyInPython.is_mended = False
    assert done.state == "succeeded"
    assert done.counts == Counts(paged=100, written=100)
    assert across.value("SELECT count(*) FROM copies") == 200


@pytest.mark.parametrize(
    "job", [CopyQuery, CopyQueryAlone, CopyQueryInSql, CopyQueryInPython], ids=lambda job: job.name
)
def test_the_rows_of_a_query_are_copied_once_each(across: Across, job: type[Job]) -> None:
    done = across.run(job, options=BY_TEN, bounds=Bounds(from_key=11), threads=2)
    assert (done.state, done.counts) == ("succeeded", Counts(paged=45, written=45))
    assert across.rows("SELECT * FROM copies ORDER BY id") == across.at_source(
        "SELECT t.id, t.n, o.label || '%' FROM t JOIN t o ON o.id = t.id + 1"
        " WHERE o.label = 'b' AND t.id >= 11 ORDER BY t.id"
    )


#: By type: values that the transform into a Python value and back would not survive.
TYPES = {
    "numeric": ["'NaN'", "1.10", "-0.0"],
    "float8": ["'-0'", "'Infinity'", "0.1::float4::float8"],
    "timestamptz": ["'infinity'", "'0044-03-15 12:00+00 BC'", "'2013-01-01 05:00+02'"],
    "interval": ["'1 mon -1 day 00:00:00.000001'"],
    "json": ["""'{"a":  1, "a": 2}'"""],
    "jsonb": ["""'{"a": null}'""", "'null'"],
    "bytea": [r"'\x00ff'"],
    "text": ["''", "E'a\\nb\\\\\"{}'", "'%s'"],
    "text[]": ["""'{"a,b",NULL,""}'""", "'{}'", "'[0:1]={a,b}'"],
    "int4range": ["'(,5)'", "'empty'"],
    "bpchar": ["'ab  '"],
    "inet": ["'10.0.0.1'", "'10.0.0.0/8'"],
    "xid8": ["'18446744073709551615'"],
    "point": ["'(1e-300,2)'"],
    "boolean": ["true"],
}


def test_every_value_arrives_as_it_was(across: Across) -> None:
    """I6: as PostgreSQL's text, past Python's types; the session's settings change nothing."""
    columns = ", ".join(f"c{i} {type_}" for i, type_ in enumerate(TYPES))
    for run_in in (across.at_source, across.execute):
        run_in(f"CREATE TABLE every (id int PRIMARY KEY, {columns})")
    across.at_source("INSERT INTO every VALUES (0)")
    for i, values in enumerate(TYPES.values()):
        for j, value in enumerate(values):
            across.at_source(f"INSERT INTO every (id, c{i}) VALUES ({i * 10 + j + 1}, {value})")

    class CopyEvery(Job):
        source = Table("every")
        target = Insert("every", on_conflict="error", database="there")

    done = across.run(CopyEvery, options=BY_TEN)
    assert done.state == "succeeded"
    told = "SELECT every::text FROM every ORDER BY id"
    assert across.rows(told) == across.at_source(told)


def test_keys_are_compared_where_they_are(across: Across) -> None:
    """I6: the target's idea of the order (here: as numbers, backwards) is never asked."""
    across.at_source('CREATE TABLE k (key text COLLATE "C" PRIMARY KEY)')
    across.at_source("INSERT INTO k SELECT chr(33 + i) || i FROM generate_series(0, 80) AS i")
    across.execute("CREATE TABLE k (key text)")

    class CopyKeys(Job):
        source = Table("k")
        target = Insert("k", on_conflict="error", database="there")

    done = across.run(CopyKeys, options=BY_TEN)
    assert done.counts == Counts(paged=81, written=81)
    assert across.value("SELECT count(DISTINCT key) FROM k") == 81


@pytest.mark.parametrize("job", [Copy, CopyInSql, CopyQuery])
def test_what_is_struck_anywhere_copies_no_row_twice_and_loses_none(
    across: Across, job: type[Job]
) -> None:
    """I1: insert and cursor are one transaction in the target; the table has no key to save us."""
    run = across.enqueue(job, options=BY_TEN)
    blows: list[Blow] = ["cut", "vanish", "terminate", "cut", "lose the reply"]
    strikes = [
        Strike(point, 2, blow) for point, blow in zip([*POINTS, "after COMMIT"], blows, strict=True)
    ]
    done = work_through(across, job, run, threads=2, strikes=strikes)
    assert done.state == "succeeded"
    written = done.counts.written
    assert across.rows("SELECT count(*), count(DISTINCT id) FROM copies") == [(written, written)]
    assert written == (100 if job is Copy else 50)


def test_a_source_that_breaks_off_is_connected_again(across: Across) -> None:
    run = across.enqueue(Copy, options=BY_TEN)
    bench = across.bench(Copy, run)
    bench.probe = AtVisit("before the page", 3, bench.reader.close)
    from backfill.engine.work import work

    work(bench, slot=0)
    bench.close()
    assert across.outcome(run).state == "succeeded"
    assert _once(across)


def test_older_writers_of_the_source_are_waited_for(across: Across) -> None:
    """I2: a row with a small key that was written before the run began is there to be copied."""
    with psycopg.connect(across.source_url or "") as other:
        other.execute("INSERT INTO t VALUES (-5, 1, 'late')")
        run = across.enqueue(Copy, options=BY_TEN)
        with across.crew(Copy, run):
            across.until_event(run, "run.waiting")
            other.commit()
    assert across.outcome(run).counts == Counts(paged=101, written=101)


def test_a_paused_run_writes_nothing_more(across: Across) -> None:
    run = across.enqueue(Copy, options=BY_TEN)
    probe = AtVisit("after the transform", 2, lambda: across.pause(run))
    assert across.work(Copy, run, probe=probe).state == "paused"
    assert across.value("SELECT count(*) FROM copies") == 10


def test_the_source_needs_no_right_but_to_read_and_no_lock_is_held_there(across: Across) -> None:
    across.at_source("CREATE ROLE looker LOGIN")
    try:
        across.at_source("GRANT SELECT ON t TO looker")
        across.at_source("GRANT ALL ON SCHEMA public TO looker")
        url = (across.source_url or "").replace("//postgres@", "//looker@")
        assert "looker" in url
        across.source_url = url
        locks: list[tuple[Any, ...]] = []

        def look() -> None:
            locks.extend(
                across.at_source(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
                    " AND usename = 'looker' AND xact_start IS NOT NULL"
                )
            )

        done = across.run(Copy, options=BY_TEN, probe=AtVisit("after the write", 2, look))
        assert done.counts.written == 100
        assert locks == []
    finally:
        until(
            lambda: not across.at_source("SELECT 1 FROM pg_stat_activity WHERE usename = 'looker'"),
            what="looker's sessions to end",
        )
        across.at_source("DROP OWNED BY looker")
        across.at_source("DROP ROLE looker")


def test_what_two_databases_cannot_promise_is_refused(across: Across) -> None:
    with pytest.raises(DeclarationError, match="delete_source=True needs one transaction"):
        Insert("copies", on_conflict="error", database="there", delete_source=True)
    with pytest.raises(DeclarationError, match="could overwrite a newer row"):
        Insert("copies", on_conflict="update", database="there")
    with pytest.raises(DeclarationError, match="database is ' '"):
        Insert("copies", on_conflict="skip", database=" ")
    with pytest.raises(DeclarationError, match="the todo is asked in the source's database"):

        class WithTodo(Job):
            source = Table("t", todo="label IS NULL")
            target = Insert("copies", on_conflict="skip", database="there")

    with pytest.raises(UsageError, match="lock is 'skip', and rows of another database"):
        across.enqueue(Copy, options=replace(BY_TEN, lock="skip"))

    class Plain(Job):
        source = Table("copies", key="id")
        target = Update("label")
        transform = Sql(label="'x'")

    assert declaration_of(Copy).home(Options(database="here")) == "there"
    assert declaration_of(Plain).home(Options(database="here")) == "here"


def _checked(across: Across, job: type[Job]) -> Report:
    declaration = declaration_of(job)
    with closing(connect(across.source_url or "")) as source_conn:
        return check(
            across.conn,
            declaration,
            arguments=declaration.sql_arguments(bind(job, {})),
            options=declaration.options,
            ledger=across.ledger,
            source_conn=source_conn,
        )


def test_check_plans_the_page_that_is_read_and_counts_in_the_source(across: Across) -> None:
    across.at_source("INSERT INTO t SELECT i, 1, 'c' FROM generate_series(101, 60000) AS i")
    across.at_source("ANALYZE t")
    report = _checked(across, CopyInSql)
    assert not [f for f in report.findings if f.severity is Severity.ERROR], report.findings
    assert report.page is not None
    assert report.page.walks_index, report.page.lines
    assert "LockRows" not in "".join(report.page.lines)
    (rows,) = [e for e in report.estimates if e.name == "rows"]
    assert rows.value == 59_950


def test_check_finds_what_only_the_source_cannot_compute(across: Across) -> None:
    class CopyMore(CopyInSql):
        transform = Sql(id="id", n="nothing_there")

    (finding,) = [f for f in _checked(across, CopyMore).findings if f.severity is Severity.ERROR]
    assert finding.name == "not-runnable"
    assert finding.message.startswith("CopyMore.transform: PostgreSQL cannot run it: column")


def test_a_dry_run_leaves_nothing_in_either_database(across: Across, tmp_path: Path) -> None:
    """Also where the scope writes, as a function that keeps a log of what it was asked does."""
    across.at_source("CREATE TABLE asked (id bigint)")
    across.at_source(
        "CREATE FUNCTION ask(bigint) RETURNS boolean LANGUAGE sql AS"
        " 'INSERT INTO asked VALUES ($1); SELECT true'"
    )

    class CopyAsked(Job):
        source = Table("t", where="ask(id)")
        target = Insert("copies", on_conflict="error", database="there")
        options = Options(database="here")

    (tmp_path / "backfill.toml").write_text(
        '[databases.here]\nurl_env = "HERE"\nsource_only = true\n'
        '[databases.there]\nurl_env = "THERE"\n'
    )
    environ = {"HERE": across.source_url or "", "THERE": across.url}
    done = dry_run_job(
        Project(load(tmp_path, environ), environ),
        declaration_of(CopyAsked),
        params={},
        options=CopyAsked.options,
        rows=50,
        shown=2,
        with_effects=False,
    )
    (place,) = done.places
    assert (place.written, place.problem) == (50, "")
    assert done.matching == Matching(rows=100, is_exact=True)
    assert across.value("SELECT count(*) FROM copies") == 0
    assert across.at_source("SELECT count(*) FROM asked") == [(0,)]


def test_each_side_is_checked_in_its_own_database(across: Across) -> None:
    across.execute("DROP TABLE copies")
    with pytest.raises(Exception, match=r"Copy\.target: there is no table 'copies'"):
        across.enqueue(Copy)
    across.at_source("DROP TABLE t")
    source_conn = connect(across.source_url or "")
    _, found = examine(across.conn, declaration_of(Copy), arguments={}, source_conn=source_conn)
    source_conn.close()
    assert [f.name for f in found.findings] == ["source-missing", "target-missing"]
    across.execute("CREATE TABLE t (id int PRIMARY KEY)")
    with pytest.raises(Exception, match=r"Copy\.source: there is no table 't'"):
        across.enqueue(Copy)
