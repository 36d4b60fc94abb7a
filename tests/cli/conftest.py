"""A project of a user's own, in a temporary folder, and the command line acting on it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import pytest
import structlog
from click.testing import CliRunner, Result
from psycopg.rows import TupleRow

from backfill.cli.root import cli
from backfill.pg.ledger import Ledger, Run, find_run, open_ledger
from tests import starting

T = TypeVar("T")
#: The longest wait for an event; each takes a fraction of it.
BOUND_SECONDS = 30.0

USERS = """
CREATE TABLE users (
    id bigint PRIMARY KEY, email text, email_lower text, age int NOT NULL, adult boolean,
    visits int NOT NULL DEFAULT 0
)"""

JOBS = '''
"""Jobs of a shop."""

import os
import time

from backfill import Job, Options, Param, Quarantine, Sql, Table, Update


class LowerEmail(Job):
    """Fold the case of every address.

    More text that `list` leaves out.
    """

    source = Table("users", where="id >= %(since)s", todo="email_lower IS NULL")
    transform = Sql(email_lower="lower(email)")
    target = Update()
    since = Param(int, default=1, help="first id")


class CountVisits(Job):
    """Add one visit to every user, once."""

    source = Table("users")
    transform = Sql(visits="visits + 1")
    target = Update()
    options = Options(batch_rows=50, slice_rows=500)


class JudgeAge(Job):
    """Say who is of age."""

    source = Table("users", columns=["age"], todo="adult IS NULL")
    target = Update("adult")

    def transform(self, row):
        if row.age < 0:
            raise Quarantine("an age below zero")
        return {"adult": row.age >= 18}


class Stubborn(Job):
    """Takes its time with its first batch."""

    source = Table("users", columns=["age"], todo="adult IS NULL")
    target = Update("adult")

    def transform_batch(self, rows):
        time.sleep(4)
        return [{"adult": row.age >= 18} for row in rows]


class Tells(Job):
    """Raises in a hook of its own."""

    source = Table("users", todo="email_lower IS NULL")
    transform = Sql(email_lower="lower(email)")
    target = Update()

    def after_batch(self, batch):
        if "MENDED" not in os.environ:
            raise OSError("the bell does not ring")

    def after_run(self, run):
        print("after_run was called", flush=True)


class Geocode(Job):
    """Needs a secret."""

    source = Table("users", todo="email_lower IS NULL")
    transform = Sql(email_lower="lower(email)")
    target = Update()
    token = Param(str, secret=True, env="SHOP_TOKEN")
    city = Param(str)
'''


@dataclass(frozen=True, slots=True)
class Done:
    """A finished command."""

    code: int
    stdout: str
    stderr: str

    @property
    def told(self) -> str:
        return self.stdout + self.stderr


def until(condition: Callable[[], T | None], what: str, seconds: float = BOUND_SECONDS) -> T:
    """Wait until `condition` returns something true; fail, saying what was waited for."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.02)
    return found


class Command:
    """A command that runs in a process of its own, its output kept as it comes."""

    def __init__(self, arguments: Sequence[str], *, folder: Path, environ: Mapping[str, str]):
        self._out = folder / f".out{time.monotonic_ns()}"
        self._err = self._out.with_suffix(".err")
        self.process = starting.start(
            ["-m", "backfill", *arguments],
            folder=folder,
            environ=environ,
            stdout=self._out,
            stderr=self._err,
        )

    @property
    def stdout(self) -> str:
        return self._out.read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        return self._err.read_text(encoding="utf-8")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def until_told(self, text: str) -> None:
        """Wait until the command has printed that text."""

        def is_told() -> bool:
            assert self.process.poll() is None or text in self.stdout + self.stderr, self.stderr
            return text in self.stdout + self.stderr

        until(is_told, f"{text!r} in what the command prints")

    def end(self) -> Done:
        """Wait for its end."""
        try:
            code = self.process.wait(BOUND_SECONDS)
        finally:
            self.kill()
        return Done(code, self.stdout, self.stderr)

    def kill(self) -> None:
        """End it and its children, if they still run."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@dataclass
class Shop:
    """A user's project with its database; commands act on it in processes of their own."""

    folder: Path
    url: str
    environ: dict[str, str]
    conn: psycopg.Connection[TupleRow]
    started: list[Command] = field(default_factory=list)

    def users(self, rows: int, *, bad: Sequence[int] = ()) -> None:
        """Fill the table; the `bad` ids have an age that no one has."""
        self.conn.execute(USERS)
        self.conn.execute(
            "INSERT INTO users (id, email, age)"
            " SELECT i, 'User' || i || '@Example.org', CASE WHEN i = ANY(%s) THEN -1 ELSE 20 END"
            " FROM generate_series(1, %s) AS i",
            [list(bad), rows],
        )
        self.conn.execute("ANALYZE users")

    def start(self, *arguments: str, **environ: str) -> Command:
        """Start a command."""
        command = Command(arguments, folder=self.folder, environ={**self.environ, **environ})
        self.started.append(command)
        return command

    def __call__(self, *arguments: str, **environ: str) -> Done:
        """Give a command and wait for its end."""
        return self.start(*arguments, **environ).end()

    def settings(self, text: str) -> None:
        """Replace the settings."""
        (self.folder / "backfill.toml").write_text(text, encoding="utf-8")

    @property
    def ledger(self) -> Ledger:
        return open_ledger(self.conn, schema="backfill")

    def latest(self, job: str) -> Run:
        """The job's latest run."""
        return find_run(self.conn, self.ledger, job)

    def number(self, statement: str, *values: Any) -> int:
        """The one number that a statement gives."""
        row = self.conn.execute(statement.encode(), values).fetchone()
        assert row is not None
        return int(row[0])


def clean_environment() -> dict[str, str]:
    """This process's, without what would reach into a user's project."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BACKFILL_", "PYTEST_", "COV_"))
    }
    return {**environ, "PYTHONUTF8": "1", "PYTHONWARNINGS": "default"}


@pytest.fixture
def shop(tmp_path: Path, db_url: str, conn: psycopg.Connection[TupleRow]) -> Iterator[Shop]:
    """A project with jobs and a database with the ledger; no Redis, no table yet."""
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "jobs" / "shop.py").write_text(JOBS, encoding="utf-8")
    (tmp_path / "backfill.toml").write_text('jobs = ["jobs"]\n', encoding="utf-8")
    environ = {**clean_environment(), "BACKFILL_DATABASE_URL": db_url}
    found = Shop(tmp_path, db_url, environ, conn)
    yield found
    for command in found.started:
        command.kill()


@pytest.fixture
def celery_shop(shop: Shop, redis_url: str) -> Shop:
    """The same with a Redis."""
    shop.environ["BACKFILL_REDIS_URL"] = redis_url
    return shop


@pytest.fixture
def judged(shop: Shop) -> Shop:
    """A shop in which judge_age has been run, and two rows are in quarantine."""
    shop.users(200, bad=[7, 70])
    assert shop("run", "judge_age").code == 6
    return shop


@contextmanager
def unmoved() -> Iterator[None]:
    """What commands in this process change in it is put back."""
    path, modules = list(sys.path), set(sys.modules)
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if not name.startswith(("backfill", "rich", "click", "celery", "kombu")):
                del sys.modules[name]
        structlog.reset_defaults()


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Result]]:
    """Give a command in this process, in an empty folder, with no database and no Redis."""
    for name in list(os.environ):
        if name.startswith("BACKFILL_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()

    def call(*arguments: str, **environ: str) -> Result:
        return runner.invoke(cli, list(arguments), env=environ, prog_name="backfill")

    with unmoved():
        yield call
