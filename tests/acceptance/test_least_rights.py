"""A role with the rights that `db grants` prints, on a ledger that somebody else has installed.

Its name is as hostile as a name can be, and the tables are in a schema of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from backfill.engine.checks.finding import Severity
from backfill.engine.checks.subject import examine
from backfill.engine.rights import job_rights
from backfill.entry import start_here
from backfill.errors import BackfillError
from backfill.job import Options
from backfill.model import RunState
from backfill.operate.before import check_job, dry_run_job
from backfill.operate.grants import grants_sql
from backfill.pg.connect import connect
from backfill.pg.grants import Right, ledger_rights
from backfill.pg.install import upgrade_sql
from backfill.project import Project
from backfill.settings import load
from tests.acceptance.crew import QUICK, Crew

JOBS = '''
ITEMS = Table("shop.item", columns=["id"], todo="label IS NULL")

class BySql(Job):
    source = Table("shop.item", todo="label IS NULL")
    transform = Sql(label="(SELECT name FROM other.names WHERE names.id = item.id)")
    target = Update()

class ByPython(Job):
    source = ITEMS
    target = Update("label")
    def transform(self, row):
        return {"label": f"row {row.id}"}

class Copy(Job):
    """Copies a few columns; the serial number is the copy's own."""
    source = Table("shop.item", columns=["id"])
    target = Insert("shop.copy", on_conflict="skip", columns=["item"], conflict=["item"])
    def transform(self, row):
        return {"item": row.id}

class Renew(Job):
    source = Table("shop.item")
    transform = Sql(item="id", note="'renewed'")
    target = Insert("shop.copy", on_conflict="update", conflict=["item"])

class Purge(Job):
    source = Table("shop.item")
    target = Delete()
'''
NAMES = ("by_sql", "by_python", "copy", "renew", "purge")
TABLES = """
CREATE SCHEMA shop; CREATE SCHEMA other;
CREATE TABLE shop.item (id bigint PRIMARY KEY, label text);
CREATE TABLE shop.copy (number bigserial, item bigint UNIQUE, note text);
CREATE TABLE other.names (id bigint PRIMARY KEY, name text);
INSERT INTO other.names SELECT i, 'name ' || i FROM generate_series(1, 200) AS i;
"""
FILL = "TRUNCATE shop.item, shop.copy; INSERT INTO shop.item SELECT generate_series(1, 200)"

Admin = psycopg.Connection


@pytest.fixture
def role(conn: Admin, db_url: str) -> Iterator[str]:
    """A role with no rights; the ledger is that of a DBA who is no superuser."""
    name = f'ev"il %s; {{x}} ☃ {conn.info.dbname[-8:]}'
    dba = f"{conn.info.dbname}_dba"
    conn.execute("DROP SCHEMA backfill CASCADE")
    for created in (name, dba):
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(created)))
    conn.execute(
        sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(
            sql.Identifier(conn.info.dbname), sql.Identifier(dba)
        )
    )
    with psycopg.connect(as_role(db_url, dba), autocommit=True) as installing:
        installing.execute(upgrade_sql().encode())
    yield name
    for made in (name, dba):
        conn.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(made)))
        conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(made)))


def as_role(url: str, name: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(name, safe='')}@{host}"))


@pytest.fixture
def crew(tmp_path: Path, conn: Admin, db_url: str, redis_url: str, role: str) -> Iterator[Crew]:
    """A project of that role, to which exactly what is printed has been granted."""
    conn.execute(TABLES.encode())
    conn.execute(FILL.encode())
    crew = Crew(tmp_path, url=as_role(db_url, role), redis_url=redis_url, engine=QUICK)
    crew.write_jobs(JOBS)
    conn.execute("\n".join(printed(crew, db_url, role)).encode())
    yield crew
    crew.close()


def printed(crew: Crew, db_url: str, role: str) -> list[str]:
    project = as_admin(crew, db_url)
    done = grants_sql(
        project,
        role,
        database="default",
        jobs=[project.declaration(name) for name in NAMES],
        params={},
        owner=None,
    )
    assert done.left_out == {}
    return list(done.lines)


def as_admin(crew: Crew, db_url: str) -> Project:
    environ = {**crew.environ, "BACKFILL_DATABASE_URL": db_url}
    return Project(load(crew.folder, environ), environ)


def test_a_worker_with_the_least_rights_works_every_kind_of_job(crew: Crew, conn: Admin) -> None:
    worker = crew.start(2, as_users_do=True)
    for name in NAMES:
        run = crew.enqueue(name)
        wait_for_the_end(crew, run)
        assert crew.state(run) is RunState.SUCCEEDED, crew.events(run)
        assert crew.counts(run).written == 200, name
        if name == "by_sql":
            conn.execute("UPDATE shop.item SET label = NULL")
        if name == "copy":
            # its role sees others' sessions: no signal is off for want of a right
            off = "SELECT name FROM backfill.signal WHERE message LIKE '%%GRANT%%'"
            assert crew.query(off) == []
    assert "permission denied" not in worker.log.read_text(errors="replace")


def test_with_these_rights_jobs_are_checked_and_tried_too(crew: Crew) -> None:
    project = crew.project
    for name in NAMES:
        declaration = project.declaration(name)
        report = check_job(project, declaration, params={}, options=declaration.options)
        assert report.is_complete
        assert report.count(Severity.ERROR) == 0, report.findings
        done = dry_run_job(
            project,
            declaration,
            params={},
            options=declaration.options,
            rows=50,
            shown=2,
            with_effects=False,
        )
        assert done.is_clean, done
        assert [len(place.changes) for place in done.places] == [2] * len(done.places), name


def wait_for_the_end(crew: Crew, run: str) -> None:
    crew.wait(lambda: not crew.state(run).is_live, f"the end of {run}")


def works(project: Project, name: str, conn: Admin) -> bool:
    """Whether a run of the job comes to its end; afterwards nothing is live, and all is to do."""
    options = Options(concurrency=1)
    try:
        here = start_here(
            project, project.declaration(name), params={}, options=options, by="the test"
        )
    except (BackfillError, psycopg.Error):
        return False
    try:
        with suppress(psycopg.Error, BackfillError):
            here.crew.start()
            here.crew.join()
        row = conn.execute("SELECT state FROM backfill.run WHERE id = %s", [here.run.id])
        return row.fetchone() == ("succeeded",)
    finally:
        here.crew.stop()
        here.desk.conn.close()


def changed(verb: str, right: Right, role: str) -> bytes:
    columns = ", ".join(sql.Identifier(column).as_string(None) for column in right.columns)
    return (
        f"{verb} {right.privilege}{f' ({columns})' if columns else ''} ON {right.on}"
        f" {'TO' if verb == 'GRANT' else 'FROM'} {sql.Identifier(role).as_string(None)}"
    ).encode()


#: The rights on the ledger that the plainest run needs; that the others are needed by some
#: statement is tested in tests/pg/test_grants.py.
PLAIN = {
    ("ledger", "SELECT"),
    ("run", "SELECT"),
    ("run", "INSERT"),
    ("run", "UPDATE"),
    ("slice", "INSERT"),
    ("slice", "UPDATE"),
    ("event", "INSERT"),
    ("write_claim", "INSERT"),
    ("write_claim", "DELETE"),
}


def test_without_any_one_of_these_rights_something_breaks(
    crew: Crew, conn: Admin, db_url: str, role: str
) -> None:
    """Each right on the jobs' tables, and the ledger's that a plain run needs."""
    project, quoted = crew.project, sql.Identifier(role)
    on_ledger = [
        right
        for right in ledger_rights("backfill")
        if (right.on.rpartition(".")[2].strip('"'), right.privilege) in PLAIN
        or right.on.startswith("SCHEMA")
    ]
    survived = []
    for name in NAMES:
        with connect(db_url) as looking:
            subject, _ = examine(looking, as_admin(crew, db_url).declaration(name), arguments={})
            assert subject is not None
            rights = list(job_rights(looking, subject))
        # what the other jobs need is not there
        for schema in ("shop", "other"):
            for statement in (
                "REVOKE ALL ON ALL TABLES IN SCHEMA {} FROM {}",
                "REVOKE ALL ON ALL SEQUENCES IN SCHEMA {} FROM {}",
                "REVOKE ALL ON SCHEMA {} FROM {}",
            ):
                conn.execute(sql.SQL(statement).format(sql.Identifier(schema), quoted))
        for right in rights:
            conn.execute(changed("GRANT", right, role))
        conn.execute(FILL.encode())
        assert works(project, name, conn), name
        for right in [*rights, *(on_ledger if name == "by_sql" else [])]:
            conn.execute(FILL.encode())
            conn.execute(changed("REVOKE", right, role))
            if works(project, name, conn):
                survived.append((name, right))
            conn.execute(changed("GRANT", right, role))
            conn.execute(
                "UPDATE backfill.run SET state = 'cancelled', finished_at = now()"
                " WHERE finished_at IS NULL AND state <> 'failed'"
            )
            conn.execute("DELETE FROM backfill.write_claim")
    assert survived == []
