"""Every mistake is told in one clear error with its exit code, and changes nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
import redis
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from backfill.cli.root import cli
from tests.cli.conftest import JOBS as SHOP
from tests.cli.conftest import USERS, unmoved
from tests.cli.mistakes import (
    PASSWORD,
    SETTINGS,
    USUAL,
    Mistake,
    Place,
    commands,
    doctors,
    surroundings,
)
from tests.services import PostgresServer, RedisServer

MISTAKES = [
    *commands.COMMANDS,
    *commands.JOBS,
    *commands.RUNS,
    *commands.SCHEDULES,
    *surroundings.PROJECTS,
    *surroundings.VARIABLES,
    *surroundings.SERVICES,
]
DATABASES = (Place.GOOD, Place.QUIET, Place.OLDER, Place.NEWER, Place.LOST, Place.BARE)
_TABLES = (
    "SELECT relnamespace::regnamespace::text, relname FROM pg_class WHERE relkind = 'r'"
    " AND relnamespace::regnamespace::text IN ('backfill', 'public') ORDER BY 1, 2"
)
TABLES = """
CREATE TABLE log (at timestamptz, line text);
CREATE TABLE maybe (id int UNIQUE, a int);
CREATE TABLE pairs (a int, b text, n int, PRIMARY KEY (a, b));
"""
#: Jobs that cannot run, beside the shop's.
WRONG = '''
from datetime import date


class LostTable(Job):
    source = Table("no_such_table", todo="a IS NULL")
    transform = Sql(a="1")
    target = Update()


class LostColumn(Job):
    source = Table("users", todo="no_such_column IS NULL")
    transform = Sql(email_lower="lower(email)")
    target = Update()


class LostTarget(Job):
    source = Table("users", columns=["age"])
    target = Update("no_such_target")

    def transform(self, row):
        return {"no_such_target": 1}


class BadTodo(Job):
    source = Table("users", todo="email_lower IS NUL")
    transform = Sql(email_lower="lower(email)")
    target = Update()


class BadSql(Job):
    source = Table("users", todo="email_lower IS NULL")
    transform = Sql(email_lower="lowr(email)")
    target = Update()


class BadScope(Job):
    source = Table("users", where="email::int > 5")
    transform = Sql(age="1")
    target = Update()


class Keyless(Job):
    source = Table("log")
    transform = Sql(line="upper(line)")
    target = Update()


class NullKey(Job):
    source = Table("maybe", key="id")
    transform = Sql(a="1")
    target = Update()


class PairUp(Job):
    """Its key has two columns."""

    source = Table("pairs")
    transform = Sql(n="1")
    target = Update()


class CountAgain(Job):
    """Writes what another run is writing."""

    source = Table("users", todo="visits = 0")
    transform = Sql(visits="1")
    target = Update()


class StockTake(Job):
    """Has a parameter of every kind."""

    source = Table("users", todo="email_lower IS NULL")
    transform = Sql(email_lower="lower(email)")
    target = Update()
    at = Param(date, default=date(2026, 1, 1))
    share = Param(float, default=0.5)
    deep = Param(bool, default=False)
    label = Param(str, default="")
'''


@pytest.fixture(scope="module")
def world(
    postgres_server: PostgresServer,
    redis_server: RedisServer,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    with ExitStack() as stack:
        found: dict[str, str] = {}
        for place in DATABASES:
            template = None if place is Place.BARE else template_database
            found[place] = postgres_server.url(
                stack.enter_context(postgres_server.database(template))
            )
        found[Place.REDIS] = stack.enter_context(redis_server.database())
        for place, statement in {
            Place.OLDER: "UPDATE backfill.ledger SET version = version - 1",
            Place.NEWER: "UPDATE backfill.ledger SET version = version + 1, needs_version = 99",
            Place.LOST: "DELETE FROM backfill.ledger",
        }.items():
            with psycopg.connect(found[place], autocommit=True) as conn:
                conn.execute(statement)
        found[Place.WRONG_REDIS] = _as(found[Place.REDIS], "nobody_here")
        found[Place.WRONG_ROLE] = _as(found[Place.GOOD], "nobody_here")
        with psycopg.connect(found[Place.GOOD], autocommit=True) as conn:
            conn.execute("CREATE ROLE mistakes_poor LOGIN")
            stack.callback(_execute, found[Place.GOOD], "DROP ROLE mistakes_poor")
            conn.execute(USERS + ";" + TABLES)
            conn.execute(
                "INSERT INTO users (id, email, age)"
                " SELECT i, 'U' || i, CASE i WHEN 7 THEN -1 ELSE 20 END"
                " FROM generate_series(1, 100) i"
            )
        found[Place.POOR] = _as(found[Place.GOOD], "mistakes_poor")
        folder = tmp_path_factory.mktemp("before")
        furnish(folder)
        with unmoved():
            for words, code in [
                (["enqueue", "lower_email"], 0),
                (["cancel", "lower_email"], 0),
                (["run", "judge_age"], 6),
                (["enqueue", "count_visits"], 0),
                (["enqueue", "pair_up"], 0),
                (["schedule", "add", "taken", "lower_email", *commands.NIGHTS], 0),
            ]:
                environ = {name: found[value] for name, value in USUAL.items()}
                done = CliRunner().invoke(cli, ["--project", str(folder), *words], env=environ)
                assert done.exit_code == code, done.output
        yield World(found, stack)


def _as(url: str, user: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:{PASSWORD}@{host}"))


def _execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(statement)


def furnish(folder: Path, given: Mistake | None = None) -> None:
    """Write a project; its package has a name of its own: these commands run in this process."""
    (folder / "wares").mkdir()
    (folder / "wares" / "__init__.py").write_text(SHOP + WRONG)
    (folder / "backfill.toml").write_text(SETTINGS if given is None else given.settings)
    for name, text in {} if given is None else given.files.items():
        (folder / name).write_text(text)


class World:
    """The databases and the Redis that the mistakes are made in, and what is in them."""

    def __init__(self, urls: Mapping[str, str], stack: ExitStack) -> None:
        self.urls = urls
        self._redis = stack.enter_context(redis.Redis.from_url(urls[Place.REDIS]))
        self._databases = {
            place: stack.enter_context(psycopg.connect(urls[place], autocommit=True))
            for place in DATABASES
        }
        self._statements = {
            place: sql.SQL(" UNION ALL ").join(
                sql.SQL("SELECT {}, x::text FROM {} x").format(
                    sql.Literal(".".join(table)), sql.Identifier(*table)
                )
                for table in conn.execute(_TABLES).fetchall()
            )
            for place, conn in self._databases.items()
        }
        self.before = self.now()

    def now(self) -> dict[str, object]:
        """The tables of every database with their rows, and the keys of Redis with their values."""
        found: dict[str, object] = {}
        for place, conn in self._databases.items():
            rows = conn.execute(self._statements[place]).fetchall() if place != Place.BARE else []
            found[place] = (conn.execute(_TABLES).fetchall(), sorted(rows))
        found[Place.REDIS] = {
            key: self._redis.dump(key)
            for key in self._redis.scan_iter()
            if self._redis.ttl(key) == -1  # what goes by itself may go meanwhile
        }
        return found


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def environment(given: Mistake, world: World) -> dict[str, str]:
    return {
        name: world.urls.get(value, value)
        for name, value in {**USUAL, **given.environ}.items()
        if value
    }


@pytest.mark.parametrize("given", MISTAKES, ids=str)
def test_a_mistake_is_told_in_one_error_and_changes_nothing(
    given: Mistake, tmp_path: Path, invoke: Callable[..., Result], world: World
) -> None:
    furnish(tmp_path, given)
    environ = environment(given, world)
    files = files_of(tmp_path)
    done = invoke(*given.given, **environ)
    told = done.stderr
    assert done.exit_code == given.code, told
    assert done.stdout == ""
    for words in given.told:
        assert words in told
    assert len(re.findall(r"^error: ", told, re.MULTILINE | re.IGNORECASE)) == 1, told
    assert "Traceback" not in told
    assert PASSWORD not in told, "a password was shown"
    assert len(told) < 4000, "what was typed buries what is wrong with it"
    assert told.replace("\n", "").isprintable(), "a terminal would obey it"
    assert files_of(tmp_path) == files
    before, world.before = world.before, world.now()
    assert world.before == before


@pytest.mark.parametrize("as_json", [False, True], ids=["", "json"])
@pytest.mark.parametrize("given", doctors.FOUND, ids=str)
def test_doctor_finds_it_and_changes_nothing(
    given: Mistake, as_json: bool, tmp_path: Path, invoke: Callable[..., Result], world: World
) -> None:
    furnish(tmp_path, given)
    environ = environment(given, world)
    files = files_of(tmp_path)
    done = invoke(*given.given, *(["--json"] if as_json else []), **environ)
    assert done.exit_code == given.code, done.output
    assert done.stderr == ""
    told, (name, *words) = done.stdout, given.told
    if as_json:
        found = {f"{one['area']}/{one['name']}": one for one in json.loads(told)["examined"]}
        assert found[name]["outcome"] in {"error", "warning"}
        assert found[name]["remedy"]
        told = found[name]["message"] + found[name]["remedy"]
    assert all(word in re.sub(r"\s+", " ", told) for word in words), told
    assert "Traceback" not in done.output
    assert PASSWORD not in done.output, "a password was shown"
    assert done.stdout.replace("\n", "").isprintable(), "a terminal would obey it"
    assert files_of(tmp_path) == files
    before, world.before = world.before, world.now()
    assert world.before == before


#: Keys as people mistype them, and as programs that mean harm would give them.
KEYS = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        [
            *commands.HOSTILE,
            *("", " ", "-", "--", "[", "[]", "[1]", '["1"', "[1, 2, 3]", '[1, "a", null]', "{}"),
            *("NaN", "Infinity", "-Infinity", "1e400", "0x10", "1_000", "\u0661", "null", "true"),
            *('[1, {"a": 2}]', "[[1], 2]", '["\\u0000", 1]', '["\\ud800", 1]', "[" * 100_000),
            *("a\0b", "\udcff", "x" * 1_000_000, "9" * 1_000_000, f'[{"9" * 100_000}, "a"]'),
        ]
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
        max_leaves=5,
    ).map(json.dumps),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    where=st.tuples(
        st.sampled_from(["count_visits", "pair_up"]), st.sampled_from(["--from", "--to", "--limit"])
    ),
    key=KEYS,
)
def test_no_key_can_do_more_than_be_refused(
    where: tuple[str, str],
    key: str,
    tmp_path: Path,
    invoke: Callable[..., Result],
    world: World,
) -> None:
    """Of jobs with a live run: a key that is right is refused for that one."""
    if not (tmp_path / "wares").exists():
        furnish(tmp_path)
    environ = {name: world.urls[value] for name, value in USUAL.items()}
    done = invoke("enqueue", where[0], f"{where[1]}={key}", **environ)
    assert done.exit_code in {2, 5}, done.output
    assert done.stdout == ""
    told = done.stderr
    if done.exit_code == 5:
        assert f"job {where[0]} has a live run already" in told
    assert len(re.findall(r"^error: ", told, re.MULTILINE | re.IGNORECASE)) == 1, told
    assert "Traceback" not in told
    assert len(told) < 4000
    assert told.replace("\n", "").isprintable()
    before, world.before = world.before, world.now()
    assert world.before == before


def test_the_table_is_long_enough() -> None:
    assert len(MISTAKES) >= 400
    assert len(commands.EVERY_COMMAND) >= 25
