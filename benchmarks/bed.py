"""A test bed: embedded PostgreSQL and Redis, one table of people, workers, and a stopwatch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from backfill.engine.enqueue import person
from backfill.entry import enqueue_in
from backfill.job import Options
from backfill.local.postgres import LocalPostgres
from backfill.local.redis import LocalRedis
from backfill.pg import install
from backfill.pg.connect import NO_LIMITS, connect
from backfill.pg.ledger import workers
from backfill.project import Project
from backfill.settings import load

JOBS = """
import re
from backfill import Job, Options, Sql, Table, Update

NOT_WORD = re.compile("[^A-Za-z0-9]+")


class SlugSql(Job):
    source = Table("people", todo="slug IS NULL")
    transform = Sql(slug="lower(regexp_replace(name, '[^A-Za-z0-9]+', '-', 'g'))")
    target = Update()


class SlugPython(Job):
    source = Table("people", columns=["name"], todo="slug IS NULL")
    target = Update("slug")

    def transform(self, row):
        return {"slug": NOT_WORD.sub("-", row.name).lower()}


class Increment(Job):
    source = Table("people")
    transform = Sql(n="n + 1")
    target = Update()
"""

PLAIN = "UPDATE people SET slug = lower(regexp_replace(name, '[^A-Za-z0-9]+', '-', 'g'))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bed:
    """Servers, a project, and a connection."""

    postgres: LocalPostgres
    redis: LocalRedis
    url: str
    redis_url: str
    folder: Path
    project: Project
    conn: psycopg.Connection

    def table(self, rows: int) -> None:
        """The table anew: `rows` people of about 120 B, an index that the work does not touch."""
        self.conn.execute("DROP TABLE IF EXISTS people")
        self.conn.execute(
            "CREATE TABLE people (id bigint PRIMARY KEY, name text NOT NULL, email text NOT NULL,"
            " created_at timestamptz NOT NULL DEFAULT now(), n integer NOT NULL DEFAULT 0,"
            " slug text)"
        )
        self.conn.execute(
            "INSERT INTO people (id, name, email)"
            " SELECT i, 'Person Number ' || i || ' Of Somewhere',"
            " 'person.' || i || '@example.com' FROM generate_series(1, %s) AS i",
            [rows],
        )
        self.conn.execute("CREATE INDEX ON people (email)")
        self.conn.execute("VACUUM ANALYZE people")
        self.conn.execute("CHECKPOINT")

    def check_slugs(self, rows: int) -> None:
        """Every slug is what the plain statement gives, or the benchmark is worth nothing."""
        row = self.conn.execute(
            "SELECT count(*) FROM people"
            " WHERE slug = lower(regexp_replace(name, '[^A-Za-z0-9]+', '-', 'g'))"
        ).fetchone()
        if row != (rows,):
            raise SystemExit(f"wrong result: {row} of {rows} rows are right")

    def run(self, job: str, options: Options | None = None) -> float:
        """Enqueue a job, wait for its end; seconds from `enqueue` to `succeeded`."""
        started = time.perf_counter()
        run = self.enqueue(job, options)
        while self.state(run) != "succeeded":
            time.sleep(0.01)
        return time.perf_counter() - started

    def enqueue(self, job: str, options: Options | None = None) -> str:
        """Enqueue a job; the run's id."""
        declaration = self.project.declaration(job)
        return enqueue_in(self.project, declaration, params={}, options=options, by=person()).run.id

    def state(self, run: str, *, may_pause: bool = False) -> str:
        """A run's state; what ends it short of its goal ends the benchmark."""
        row = self.conn.execute("SELECT state FROM backfill.run WHERE id = %s", [run]).fetchone()
        bad = {"failed", "cancelled"} if may_pause else {"paused", "failed", "cancelled"}
        if row is None or row[0] in bad:
            raise SystemExit(f"{run} ended as {row}")
        return str(row[0])


@contextmanager
def bed(more: Mapping[str, str] | None = None) -> Iterator[Bed]:
    """Start the servers with durable settings, as production has them, and `more` of them.

    The project has this repository's jobs, too.
    """
    settings = {"shared_buffers": "512MB", "max_wal_size": "8GB", "checkpoint_timeout": "30min"}
    settings.update(more or {})
    with (
        tempfile.TemporaryDirectory(prefix="backfill-bench-") as name,
        LocalPostgres(settings=settings) as postgres,
        LocalRedis() as redis,
    ):
        folder = Path(name)
        (folder / "backfill.toml").write_text('jobs = ["benchjobs", "jobs"]\n')
        (folder / "jobs").symlink_to(Path(__file__).parents[1] / "jobs")
        (folder / "benchjobs.py").write_text(JOBS)
        url = postgres.create_database("bench")
        environ = {
            **os.environ,
            "BACKFILL_DATABASE_URL": url,
            "BACKFILL_REDIS_URL": redis.url(),
        }
        with connect(url, limits=NO_LIMITS) as conn:
            install.upgrade(conn)
            project = Project(load(folder, environ), environ)
            yield Bed(
                postgres=postgres,
                redis=redis,
                url=url,
                redis_url=redis.url(),
                folder=folder,
                project=project,
                conn=conn,
            )


@contextmanager
def running_workers(
    bed: Bed, count: int, *, children: int = 1, module: str = "backfill", prefix: str = "w"
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Worker processes in groups of their own; terminated at the end.

    Args:
        module: what is run with the command line's arguments.
        prefix: of their names.
    """
    started = [
        start_worker(bed, f"{prefix}{i}", children=children, module=module) for i in range(count)
    ]
    try:
        wait_for(lambda: sum(prefix == name[: len(prefix)] for name in _seen(bed)) >= count, 60)
        yield started
    finally:
        for worker in started:
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
        for worker in started:
            worker.wait(60)


def start_worker(
    bed: Bed, name: str, *, children: int, module: str = "backfill"
) -> subprocess.Popen[bytes]:
    """One `backfill worker`."""
    log = (bed.folder / f"{name}.log").open("ab")
    return subprocess.Popen(
        [
            *(sys.executable, "-m", module, "--project", str(bed.folder), "worker"),
            *("--concurrency", str(children), "--name", name, "--loglevel", "WARNING"),
        ],
        env=dict(bed.project.environ),
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def _seen(bed: Bed) -> list[str]:
    desk = bed.project.open()
    try:
        return [one.name for one in workers(desk.conn, desk.ledger, within_seconds=10)]
    finally:
        desk.conn.close()


def wait_for(condition: Callable[[], object], seconds: float) -> float:
    """Poll until it is true; seconds that it took."""
    started = time.perf_counter()
    while not condition():
        if time.perf_counter() - started > seconds:
            raise SystemExit("waited in vain")
        time.sleep(0.02)
    return time.perf_counter() - started
