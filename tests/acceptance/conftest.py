"""What makes a project with workers, and a login with a password for it.

With BACKFILL_TEST_POOLER=1 every project comes to PostgreSQL by way of a PgBouncer in transaction
mode: workers, Flower, commands. `make pooler` runs all tests of this folder so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from backfill.local.redis import LocalRedis
from tests.acceptance.crew import QUICK, Crew
from tests.chaos.pooler import by_way_of, pooler
from tests.services import PostgresServer

MakeCrew = Callable[..., Crew]
PASSWORD = "a-password-of-the-database-4712"
REDIS_PASSWORD = "a-password-of-the-broker-4713"


@pytest.fixture(scope="session", autouse=True)
def pooled(postgres_server: PostgresServer) -> Iterator[None]:
    """Puts the pooler before the session's server, where it is asked for; others stay as is."""
    if os.environ.get("BACKFILL_TEST_POOLER") != "1":
        yield
        return
    server = postgres_server.url()
    with pooler(server) as way, pytest.MonkeyPatch.context() as patch:
        port = urlsplit(way).port
        assert port is not None

        def by_way_of_it(url: str) -> str:
            is_its = urlsplit(url).port == urlsplit(server).port
            return by_way_of(port, url) if is_its else url

        patch.setattr(Crew, "by_way_of", staticmethod(by_way_of_it))
        patch.setattr(Crew, "is_pooled", True)
        yield


@pytest.fixture
def make_crew(tmp_path: Path, db_url: str, request: pytest.FixtureRequest) -> Iterator[MakeCrew]:
    """Makes the test's crew, on a Redis of its own or on the session's; ends it afterwards."""
    made: list[Crew] = []

    def make(*, redis_url: str | None = None, engine: Mapping[str, float] = QUICK) -> Crew:
        url = redis_url or request.getfixturevalue("redis_url")
        made.append(Crew(tmp_path, url=db_url, redis_url=url, engine=engine))
        return made[0]

    yield make
    for crew in made:
        crew.close()


@pytest.fixture
def crew(make_crew: MakeCrew) -> Crew:
    """A project with short times, on the session's Redis; it has no worker yet."""
    return make_crew()


@pytest.fixture
def login(conn: psycopg.Connection, db_url: str) -> Iterator[str]:
    """The URL of the test's database with a password in it."""
    with logged_in(conn, db_url) as url:
        yield url


@contextmanager
def with_users(folder: Path, **settings: str) -> Iterator[LocalRedis]:
    """A Redis with a user `worker` that has a password, and one that needs none.

    Args:
        folder: for the list of its users.
        settings: more of its configuration.
    """
    users = folder / "users.acl"
    rights = "~* &* +@all"
    users.write_text(
        f"user default on nopass {rights}\nuser worker on >{REDIS_PASSWORD} {rights}\n"
    )
    with LocalRedis(settings={"aclfile": str(users), **settings}) as server:
        yield server


@contextmanager
def logged_in(conn: psycopg.Connection, db_url: str) -> Iterator[str]:
    """The URL of a database for a role that has a password."""
    name = f"{conn.info.dbname}_login"
    conn.execute(
        sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}").format(
            sql.Identifier(name), sql.Literal(PASSWORD)
        )
    )
    parts = urlsplit(db_url)
    host = parts.netloc.rpartition("@")[2]
    yield urlunsplit(parts._replace(netloc=f"{name}:{PASSWORD}@{host}"))
    conn.execute(sql.SQL("REASSIGN OWNED BY {} TO CURRENT_USER").format(sql.Identifier(name)))
    conn.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
    conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
