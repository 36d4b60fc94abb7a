"""Fixtures that every folder of tests shares: the services, and a database for each test."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
import structlog

from backfill.local.postgres import LocalPostgres
from backfill.local.redis import LocalRedis
from tests import profiles, services
from tests.services import PostgresServer, RedisServer

profiles.load_profile()


@pytest.fixture(autouse=True)
def log_settings() -> Iterator[None]:
    """What a test made of the log is not the next one's: commands set it for their process."""
    kept = structlog.get_config()
    yield
    structlog.configure(**kept)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The session's PostgreSQL; a test that stops or reconfigures it takes `own_postgres`."""
    with services.running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The session's Redis; a test that stops or flushes it takes `own_redis`."""
    with services.running_redis() as server:
        yield server


@pytest.fixture(scope="session")
def template_database(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of a database with the ledger in it, copied for each test.

    Nobody may stay connected to it: PostgreSQL copies a database that is not in use.
    """
    from backfill.pg.install import upgrade

    with postgres_server.database() as name:
        with psycopg.connect(postgres_server.url(name), autocommit=True) as connection:
            upgrade(connection)
        yield name


@pytest.fixture
def db_url(postgres_server: PostgresServer, template_database: str) -> Iterator[str]:
    """The URL of a new database with the ledger, dropped after the test."""
    with postgres_server.database(template_database) as name:
        yield postgres_server.url(name)


@pytest.fixture
def conn(db_url: str) -> Iterator[psycopg.Connection]:
    """A connection in autocommit mode to the test's database."""
    with psycopg.connect(db_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def redis_url(redis_server: RedisServer) -> Iterator[str]:
    """The URL of an empty logical database of Redis, emptied after the test."""
    with redis_server.database() as url:
        yield url


@pytest.fixture
def own_postgres() -> Iterator[LocalPostgres]:
    """A PostgreSQL of the test's own, running, with no ledger."""
    with services.embedded_postgres() as server:
        yield server


@pytest.fixture
def own_redis() -> Iterator[LocalRedis]:
    """A Redis of the test's own, running, with an append-only file: to stop, kill and flush."""
    with LocalRedis() as server:
        yield server
