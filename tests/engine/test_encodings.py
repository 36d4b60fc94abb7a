"""Settings of a database that change what texts and arrays mean, but not what a run does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from backfill import Insert, Job, Options, Query, Row, Sql, Table, Update
from backfill.errors import ProjectError
from backfill.pg.install import upgrade
from tests.engine.factory import Worksite
from tests.services import PostgresServer

TINY = Options(batch_rows=2, slice_rows=4, concurrency=1)


@pytest.fixture
def encoded(request: pytest.FixtureRequest, postgres_server: PostgresServer) -> Iterator[Worksite]:
    """A new database of that encoding, with the ledger."""
    name = sql.Identifier(f"backfill_test_{uuid4().hex[:12]}")
    with psycopg.connect(postgres_server.url(), autocommit=True) as admin:
        admin.execute(
            sql.SQL(
                "CREATE DATABASE {} ENCODING {} LOCALE_PROVIDER libc LC_COLLATE 'C'"
                " LC_CTYPE 'C' TEMPLATE template0"
            ).format(name, sql.Literal(request.param))
        )
        try:
            url = postgres_server.url(name.as_string().strip('"'))
            with psycopg.connect(url, autocommit=True, client_encoding="UTF8") as conn:
                upgrade(conn)
            with closing(Worksite(url)) as site:
                yield site
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


class InPython(Job):
    source = Table("wört", todo="n = 0", where="k <> 'ü'")
    target = Update("n", "note")
    options = TINY

    def transform(self, row: Row) -> dict[str, object]:
        return {"n": row.n + 1, "note": f"{row.k}ß"}


class InSql(Job):
    source = InPython.source
    transform = Sql(n="n + 1", note="k || 'ß'")
    target = Update()
    options = TINY


@pytest.mark.parametrize("encoded", ["LATIN1", "UTF8", "WIN1252"], indirect=True)
def test_a_run_is_the_same_in_a_database_of_any_encoding(encoded: Worksite) -> None:
    encoded.execute("CREATE TABLE wört (k text PRIMARY KEY, n int DEFAULT 0, note text)")
    encoded.execute("INSERT INTO wört VALUES ('a'), ('b'), ('ö'), ('ñ'), ('é')")
    for job in (InSql, InPython):
        encoded.execute("UPDATE wört SET n = 0, note = NULL")
        done = encoded.run(job)
        assert (done.state, done.counts.written) == ("succeeded", 5)
        assert encoded.rows("SELECT DISTINCT n, note = k || 'ß' FROM wört") == [(1, True)]


@pytest.mark.parametrize("encoded", ["SQL_ASCII"], indirect=True)
def test_a_database_without_an_encoding_can_be_worked_in(encoded: Worksite) -> None:
    """Where names and keys are ASCII: PostgreSQL takes no other letters as JSON there."""
    encoded.execute("CREATE TABLE word (k text PRIMARY KEY, n int DEFAULT 0)")
    encoded.execute("INSERT INTO word VALUES ('a'), ('bb')")
    parts = {
        "source": Table("word", todo="n = 0"),
        "target": Update("n"),
        "transform": lambda self, row: {"n": len(row.k)},
    }
    assert encoded.run(type("Measure", (Job,), parts)).state == "succeeded"
    assert encoded.rows("SELECT k, n FROM word ORDER BY k") == [("a", 1), ("bb", 2)]


def test_a_client_encoding_of_the_role_or_the_database_changes_nothing(
    site: Worksite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    database = sql.Identifier(site.value("SELECT current_database()"))
    site.conn.execute(sql.SQL("ALTER DATABASE {} SET client_encoding = 'LATIN1'").format(database))
    site.execute("CREATE TABLE wört (k text PRIMARY KEY, n int DEFAULT 0, note text)")
    site.execute("INSERT INTO wört VALUES ('ł'), ('日本')")
    with closing(Worksite(site.url)) as again:
        done = again.run(InPython)
    assert (done.state, done.counts.written) == ("succeeded", 2)
    assert site.rows("SELECT note FROM wört ORDER BY k") == [("łß",), ("日本ß",)]


def test_a_none_is_null_whatever_array_nulls_says(site: Worksite) -> None:
    database = sql.Identifier(site.value("SELECT current_database()"))
    site.conn.execute(sql.SQL("ALTER DATABASE {} SET array_nulls = off").format(database))
    site.execute("CREATE TABLE t (id int PRIMARY KEY, label text, tags text[], seen bool)")
    site.execute("INSERT INTO t SELECT generate_series(1, 3)")

    class Label(Job):
        source = Table("t", todo="seen IS NULL")
        target = Update("label", "tags", "seen")

        def transform(self, row: Row) -> dict[str, object]:
            return {"label": None if row.id == 2 else "x", "tags": ["a", None], "seen": True}

    with closing(Worksite(site.url)) as again:
        assert again.run(Label).counts.written == 3
    assert site.rows("SELECT label, array_position(tags, NULL) FROM t ORDER BY id") == [
        ("x", 2),
        (None, 2),
        ("x", 2),
    ]


def test_a_query_that_changes_rows_is_refused_in_a_sentence(site: Worksite) -> None:
    site.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int PRIMARY KEY)")
    job = type(
        "Take",
        (Job,),
        {
            "source": Query("WITH x AS (DELETE FROM t RETURNING id) SELECT id FROM x", key="id"),
            "target": Insert("u", on_conflict="skip"),
        },
    )
    with pytest.raises(ProjectError, match="PostgreSQL cannot run the query"):
        site.enqueue(job)
