"""`db grants`: what is printed, and what is said of jobs that cannot be looked at."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Shop

MORE = """
from backfill import Call, Delete, Insert, Job, Param, Sql, Table, Update


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
    jobs = [f"--job={name}" for name in ("lower_email", "purge", "copy", "ring")]
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
