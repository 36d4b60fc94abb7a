"""What people type wrong, and what they are told: the exit code, the thing, never a traceback."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psycopg
import pytest
from click.testing import Result

from tests.cli.conftest import JOBS, USERS
from tests.services import PostgresServer

#: In place of a URL: what a user's environment holds.
GOOD = "the test's database"
NO_DATABASE: Mapping[str, str] = {}
A_DATABASE = {"BACKFILL_DATABASE_URL": GOOD}
NO_ANSWER = {"BACKFILL_DATABASE_URL": "postgresql://ada:hunter2@127.0.0.1:1/shop"}
NO_URL = {"BACKFILL_DATABASE_URL": "mysql://ada:hunter2@127.0.0.1/shop"}
NO_LEDGER = {"BACKFILL_DATABASE_URL": "the same without a ledger"}
BAD_REDIS = {**A_DATABASE, "BACKFILL_REDIS_URL": "http://:hunter2@127.0.0.1"}

Mistake = tuple[Sequence[str], Mapping[str, str], int, str]

MISTAKES: list[Mistake] = [
    # commands and options
    (["nonsense"], NO_DATABASE, 2, "nonsense"),
    (["statsu"], NO_DATABASE, 2, "Did you mean status?"),
    (["--fast", "status"], NO_DATABASE, 2, "--fast"),
    (["status", "--fast"], NO_DATABASE, 2, "--fast"),
    (["quarantine", "lits"], NO_DATABASE, 2, "lits"),
    (["db", "downgrade"], NO_DATABASE, 2, "downgrade"),
    (["status", "one", "two"], A_DATABASE, 2, "two"),
    (["status", "--limit", "0"], A_DATABASE, 2, "--limit"),
    (["status", "--limit", "some"], A_DATABASE, 2, "some"),
    (["db", "upgrade", "--sql", "--yes"], NO_DATABASE, 2, "--sql"),
    # a job and its parameters
    (["run"], A_DATABASE, 2, "JOB"),
    (["run", ""], A_DATABASE, 2, "no job"),
    (["run", "lower_emial"], A_DATABASE, 2, "Did you mean lower_email?"),
    (["run", "../lower_email"], A_DATABASE, 2, "../lower_email"),
    (["run", "lower_email", "extra"], A_DATABASE, 2, "extra"),
    (["run", "lower_email", "-p", "since"], A_DATABASE, 2, "'since'"),
    (["run", "lower_email", "-p", "=5"], A_DATABASE, 2, "'=5'"),
    (["run", "lower_email", "-p", "sinse=5"], A_DATABASE, 2, "Did you mean since?"),
    (["run", "lower_email", "-p", "since=early"], A_DATABASE, 2, "since=2013"),
    (["run", "lower_email", "-p", f"since={'9' * 30}"], A_DATABASE, 2, "bigint"),
    (["run", "lower_email", "-p", "since=1", "-p", "since=2"], A_DATABASE, 2, "since is given"),
    (["run", "geocode"], A_DATABASE, 2, "city"),
    (["run", "geocode", "-p", "city=Rome", "-p", "token=x"], A_DATABASE, 2, "token"),
    (["run", "geocode", "-p", "city=Rome"], A_DATABASE, 3, "SHOP_TOKEN"),
    (["run", "lost_table"], A_DATABASE, 3, "no_such_table"),
    (["run", "lost_column"], A_DATABASE, 3, "no_such_column"),
    # options of a run
    (["run", "lower_email", "--set", "rat=5/s"], A_DATABASE, 2, "Did you mean rate?"),
    (["run", "lower_email", "--set", "rate"], A_DATABASE, 2, "'rate'"),
    (["run", "lower_email", "--rate", "fast"], A_DATABASE, 2, "fast"),
    (["run", "lower_email", "--rate", "0/s"], A_DATABASE, 2, "0/s"),
    (["run", "lower_email", "--rate", "9/s", "--set", "rate=8/s"], A_DATABASE, 2, "rate is given"),
    (["run", "lower_email", "--window", "25:00-26:00"], A_DATABASE, 2, "25:00"),
    (["run", "lower_email", "--window", "01:00-02:00 Mars/Base"], A_DATABASE, 2, "Mars/Base"),
    (["run", "lower_email", "--concurrency", "0"], A_DATABASE, 2, "concurrency"),
    (["run", "lower_email", "--concurrency", "many"], A_DATABASE, 2, "many"),
    (["run", "lower_email", "--batch-rows", "-1"], A_DATABASE, 2, "batch_rows"),
    (["run", "lower_email", "--set", "lock_timeout_seconds=5"], A_DATABASE, 2, "0.9"),
    (["run", "lower_email", "--database", "nowhere"], A_DATABASE, 2, "nowhere"),
    # enqueue and worker
    (["enqueue", "lower_email"], A_DATABASE, 3, "BACKFILL_REDIS_URL"),
    (["enqueue", "lower_email"], BAD_REDIS, 3, "BACKFILL_REDIS_URL"),
    (["enqueue", "lower_email", "--timeout", "5"], A_DATABASE, 2, "--wait"),
    (["enqueue", "lower_email", "--wait", "--timeout", "-1"], A_DATABASE, 2, "--timeout"),
    (["worker"], A_DATABASE, 3, "BACKFILL_REDIS_URL"),
    (["worker", "--concurrency", "0"], A_DATABASE, 2, "--concurrency"),
    (["worker", "--pool", "gevent"], A_DATABASE, 2, "gevent"),
    (["worker", "--loglevel", "loud"], A_DATABASE, 2, "loud"),
    # a run
    (["status", "lost-12345"], A_DATABASE, 2, "lost-12345"),
    (["status", "'; DROP TABLE users; --"], A_DATABASE, 2, "DROP TABLE"),
    (["status", "lost", "--database", "nowhere"], A_DATABASE, 2, "nowhere"),
    (["watch"], A_DATABASE, 2, "no run is live"),
    (["pause"], A_DATABASE, 2, "no run is live"),
    (["cancel", ""], A_DATABASE, 2, "RUN is empty"),
    (["cancel", "lost"], A_DATABASE, 2, "lost"),
    (["resume", "lost"], A_DATABASE, 2, "lost"),
    (["retry", "lost"], A_DATABASE, 2, "lost"),
    (["events", "lost"], A_DATABASE, 2, "lost"),
    (["quarantine", "list", "lost"], A_DATABASE, 2, "lost"),
    (["quarantine", "accept", "lost"], A_DATABASE, 2, "lost"),
    # the project and its database
    (["--project", "nowhere", "list"], NO_DATABASE, 3, "nowhere"),
    (["new", "Bad Name"], NO_DATABASE, 2, "Bad Name"),
    (["status"], NO_DATABASE, 3, "BACKFILL_DATABASE_URL"),
    (["status"], NO_URL, 3, "BACKFILL_DATABASE_URL"),
    (["status"], NO_ANSWER, 4, "127.0.0.1:1/shop"),
    (["run", "lower_email"], NO_ANSWER, 4, "127.0.0.1:1/shop"),
    (["db", "upgrade"], NO_ANSWER, 4, "127.0.0.1:1/shop"),
    (["db", "upgrade", "--database", "nowhere"], A_DATABASE, 2, "nowhere"),
    (["status"], NO_LEDGER, 5, "backfill db upgrade"),
    (["run", "lower_email"], NO_LEDGER, 5, "backfill db upgrade"),
]

WRONG_JOBS = """

class LostTable(Job):
    source = Table("no_such_table", todo="a IS NULL")
    transform = Sql(a="1")
    target = Update()


class LostColumn(Job):
    source = Table("users", todo="no_such_column IS NULL")
    transform = Sql(email_lower="lower(email)")
    target = Update()
"""


@pytest.fixture(scope="module")
def urls(postgres_server: PostgresServer, template_database: str) -> Iterator[Mapping[str, str]]:
    """A database with the ledger and a table, and one with nothing."""
    with (
        postgres_server.database(template_database) as good,
        postgres_server.database() as empty,
    ):
        found = {
            GOOD: postgres_server.url(good),
            NO_LEDGER["BACKFILL_DATABASE_URL"]: postgres_server.url(empty),
        }
        with psycopg.connect(found[GOOD], autocommit=True) as conn:
            conn.execute(USERS)
        yield found


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A project whose package has a name of its own: these commands run in this process."""
    (tmp_path / "backfill.toml").write_text('jobs = ["wares"]\n')
    (tmp_path / "wares").mkdir()
    (tmp_path / "wares" / "__init__.py").write_text(JOBS + WRONG_JOBS)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "named"),
    MISTAKES,
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_told_with_its_code_and_its_name_and_changes_nothing(
    shelf: Path,
    invoke: Callable[..., Result],
    urls: Mapping[str, str],
    *,
    arguments: Sequence[str],
    environ: Mapping[str, str],
    code: int,
    named: str,
) -> None:
    given = {name: urls.get(value, value) for name, value in environ.items()}
    files = sorted(shelf.rglob("*.py"))
    done = invoke(*arguments, **given)
    assert done.exit_code == code, done.output
    assert named in done.stderr
    assert "Traceback" not in done.output
    assert "hunter2" not in done.output, "a password was shown"
    assert sorted(shelf.rglob("*.py")) == files
    with psycopg.connect(urls[GOOD], autocommit=True) as conn:
        assert conn.execute("SELECT count(*) FROM backfill.run").fetchone() == (0,)


def test_the_table_is_long_enough() -> None:
    assert len(MISTAKES) >= 40
