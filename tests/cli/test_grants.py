"""`db grants`: what is printed, and what is said of jobs that cannot be looked at."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from tests.cli.conftest import Shop
from tests.services import PostgresServer

MORE = """
from backfill import Call, Delete, Insert, Job, Param, Query, Sql, Table, Update


class Absent(Job):
    source = Table("absent", todo="x IS NULL")
    transform = Sql(x="1")
    target = Update()


class Purge(Job):
    source = Table("users", where="EXISTS (SELECT FROM blocked WHERE blocked.id = users.id)")
    target = Delete()


class Copy(Job):
    source = Table("users")
    transform = Sql(email="email", of="id")
    target = Insert("copies", on_conflict="update", conflict=["of"])


class Ring(Job):
    source = Table("users", columns=["email"])
    target = Call()

    def transform(self, row):
        pass


class Count(Job):
    source = Query("SELECT id, max(email) AS email FROM users GROUP BY id", key="id")
    transform = Sql(of="id", email="(SELECT max(b.id)::text FROM blocked b)")
    target = Insert("copies", on_conflict="error")


class Scoped(Job):
    source = Table("users", where="id < %(top)s AND id IN (SELECT id FROM blocked)")
    target = Delete()
    top = Param(int)
"""


@pytest.fixture
def larger(shop: Shop) -> Shop:
    shop.users(10)
    shop.conn.execute("CREATE TABLE blocked (id bigint)")
    shop.conn.execute("CREATE TABLE copies (n serial, of bigint UNIQUE, email text)")
    (shop.folder / "jobs" / "more.py").write_text(MORE, encoding="utf-8")
    return shop


def granted(text: str, job: str) -> list[str]:
    """The statements below a job's remark."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(f"-- Job {job}:"))
    return lines[first + 1 : lines.index("", first)]


def test_each_kind_of_job_asks_for_its_own_rights_only(larger: Shop) -> None:
    jobs = [f"--job={name}" for name in ("lower_email", "purge", "copy", "ring", "count")]
    done = larger("db", "grants", "app", *jobs)
    assert done.code == 0, done.told
    assert done.stdout.startswith("BEGIN;\n")
    assert done.stdout.endswith('GRANT pg_read_all_stats TO "app";\n\nCOMMIT;\n')
    assert 'GRANT SELECT, INSERT, UPDATE ("noticed") ON "backfill"."event" TO "app";' in done.stdout
    usage = 'GRANT USAGE ON SCHEMA public TO "app";'
    assert granted(done.stdout, "lower_email") == [
        usage,
        'GRANT SELECT, UPDATE ("email_lower") ON public.users TO "app";',
    ]
    assert granted(done.stdout, "purge") == [
        usage,
        'GRANT SELECT, UPDATE ("id"), DELETE ON public.users TO "app";',
        'GRANT SELECT ON public.blocked TO "app";',
    ]
    on_copies = 'INSERT ("email", "of"), SELECT ("of", "email"), UPDATE ("email")'
    assert granted(done.stdout, "copy") == [
        usage,
        'GRANT SELECT, UPDATE ("id") ON public.users TO "app";',
        f'GRANT {on_copies} ON public.copies TO "app";',
        'GRANT USAGE ON SEQUENCE public.copies_n_seq TO "app";',
    ]
    assert granted(done.stdout, "ring") == [usage, 'GRANT SELECT ON public.users TO "app";']
    assert granted(done.stdout, "count") == [
        usage,
        'GRANT INSERT ("of", "email") ON public.copies TO "app";',
        'GRANT USAGE ON SEQUENCE public.copies_n_seq TO "app";',
        'GRANT SELECT ON public.blocked TO "app";',
        'GRANT SELECT ON public.users TO "app";',
    ]
    assert "DEFAULT PRIVILEGES" not in done.stdout


def test_jobs_that_cannot_be_looked_at_are_named_and_the_others_are_printed(larger: Shop) -> None:
    done = larger("db", "grants", 'a"b; --', "--ledger-owner", "dba")
    assert done.code == 1
    assert "-- Job absent: left out: Absent.source: there is no table" in done.stdout
    assert "warning: job scoped is left out: scoped: the parameter top is missing" in done.stderr
    assert granted(done.stdout, "lower_email")[1].endswith(' TO "a""b; --";')
    assert 'FOR ROLE "dba" IN SCHEMA "backfill" GRANT SELECT, INSERT' in done.stdout
    done = larger("db", "grants", "app", "--job", "scoped", "-p", "top=5")
    assert done.code == 0, done.told
    assert 'GRANT SELECT ON public.blocked TO "app";' in granted(done.stdout, "scoped")


def test_names_and_options_that_cannot_be_right_are_refused(larger: Shop) -> None:
    for arguments, told in (
        (("public",), "is no role"),
        (("app", "-p", "top=5"), "Name that job"),
        (("app", "--job", "purg"), "no job purg"),
        (("app", "--database", "nowhere"), "nowhere"),
    ):
        done = larger("db", "grants", *arguments)
        assert (done.code, told in done.stderr) == (2, True), done.told
        assert done.stdout == ""


FAR = """
from backfill import Insert, Job, Options, Sql, Table


class CopyOut(Job):
    source = Table("users", where="EXISTS (SELECT FROM blocked WHERE blocked.id = users.id)")
    transform = Sql(of="id", code="(SELECT max(code) FROM codes)")
    target = Insert("copies", on_conflict="skip", conflict=["of"], database="store")
    options = Options(database="shop")
"""
THERE = "grant there what `db grants` prints with --database"
TWO = """jobs = ["jobs"]
[databases.shop]
url_env = "SHOP_URL"
source_only = true
[databases.store]
url_env = "BACKFILL_DATABASE_URL"
"""


@pytest.fixture
def apart(shop: Shop, postgres_server: PostgresServer) -> Iterator[Shop]:
    """A job that reads one database and writes another."""
    with postgres_server.database() as name:
        url = postgres_server.url(name)
        with psycopg.connect(url, autocommit=True) as conn:
            conn.execute("CREATE TABLE users (id bigint PRIMARY KEY)")
            conn.execute("CREATE TABLE blocked AS SELECT i AS id FROM generate_series(1, 7) AS i")
            conn.execute("CREATE TABLE codes AS SELECT 5 AS code")
            conn.execute("INSERT INTO users SELECT generate_series(1, 10)")
        shop.conn.execute("CREATE TABLE copies (n serial, of bigint UNIQUE, code int)")
        (shop.folder / "jobs" / "shop.py").write_text(FAR, encoding="utf-8")
        shop.settings(TWO)
        shop.environ["SHOP_URL"] = url
        yield shop


def test_rights_in_two_databases_are_printed_one_by_one(apart: Shop) -> None:
    done = apart("db", "grants", "app", "--job", "copy_out")
    assert (done.code, done.stdout) == (2, "")
    assert "rights are needed in 2 databases: shop, store" in done.stderr
    usage = 'GRANT USAGE ON SCHEMA public TO "app";'
    source = apart("db", "grants", "app", "--database", "shop")
    assert source.code == 0, source.told
    assert "ledger" not in source.stdout, "there is none"
    assert granted(source.stdout, "copy_out") == [
        f"-- It writes database store, too: {THERE} store.",
        usage,
        'GRANT SELECT ON public.users TO "app";',
        'GRANT SELECT ON public.blocked TO "app";',
        'GRANT SELECT ON public.codes TO "app";',
    ]
    target = apart("db", "grants", "app", "--database", "store", "--job", "copy_out")
    assert "ledger" in target.stdout
    assert granted(target.stdout, "copy_out") == [
        f"-- It reads database shop, too: {THERE} shop.",
        usage,
        'GRANT INSERT ("of", "code"), SELECT ("of") ON public.copies TO "app";',
        'GRANT USAGE ON SEQUENCE public.copies_n_seq TO "app";',
    ]


def test_these_rights_suffice_in_both(apart: Shop) -> None:
    role = f"copier_{apart.conn.info.dbname}"
    urls = {name: apart.environ[name] for name in ("SHOP_URL", "BACKFILL_DATABASE_URL")}
    apart.conn.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(role)))
    try:
        for name, database in (("SHOP_URL", "shop"), ("BACKFILL_DATABASE_URL", "store")):
            done = apart("db", "grants", role, "--database", database)
            with psycopg.connect(urls[name], autocommit=True) as conn:
                conn.execute(done.stdout.encode())
        as_role = {name: url.replace("//postgres@", f"//{role}@") for name, url in urls.items()}
        assert role in as_role["SHOP_URL"]
        for command in ("check", "dry-run", "run"):
            done = apart(command, "copy_out", **as_role)
            assert done.code == 0, done.told
        assert apart.number("SELECT sum(code) FROM copies") == 7 * 5
    finally:
        for url in urls.values():
            with psycopg.connect(url, autocommit=True) as conn:
                conn.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
        apart.conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def test_a_database_that_a_job_does_not_touch_is_refused(apart: Shop) -> None:
    apart.settings(TWO + '[databases.other]\nurl_env = "SHOP_URL"\n')
    done = apart("db", "grants", "app", "--database", "other", "--job", "copy_out")
    assert done.code == 2
    assert "copy_out has nothing to do with database other" in done.stderr
    assert "It works on shop and store." in done.stderr
