"""The real PostgreSQL and Redis that the tests run against.

Which ones, first that applies:

1. `BACKFILL_TEST_DATABASE_URL` and `BACKFILL_TEST_REDIS_URL`: servers that are there already. The
   login must be allowed to create databases. Nothing in them is touched: every test gets a
   database of a new name, and an empty logical database of Redis.
2. testcontainers, where a container engine answers.
3. The embedded servers of `backfill.local`.

A service that is missing fails the tests: a run that skipped them would say nothing.
"""

from __future__ import annotations

import gc
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest
import redis
from psycopg import sql

from backfill.local.postgres import LocalPostgres
from backfill.local.redis import LocalRedis

#: Durability is not what the tests test; everything else stays as PostgreSQL ships it (the
#: default deadlock_timeout, full_page_writes and isolation among them).
FAST: dict[str, str | int | float] = {"fsync": False, "synchronous_commit": False}

POSTGRES_IMAGE = "postgres:18"
REDIS_IMAGE = "valkey/valkey:9"


class PostgresServer:
    """A running PostgreSQL in which tests create and drop databases.

    Args:
        url: of a database that exists, with a login that may create others.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def url(self, dbname: str | None = None) -> str:
        """The URL of one of its databases; None: the one to connect to for administration."""
        if dbname is None:
            return self._url
        return urlunsplit(urlsplit(self._url)._replace(path="/" + quote(dbname, safe="")))

    def create_database(self, name: str, template: str | None = None) -> str:
        """Create a database, as a copy of `template` if given; returns its URL."""
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            # half the time of the other strategy, where no checkpoint has to reach a disk
            statement += sql.SQL(" TEMPLATE {} STRATEGY file_copy").format(sql.Identifier(template))
        self._execute(statement)
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database and end whoever is connected to it; a missing one is no error."""
        self._execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )

    @contextmanager
    def database(self, template: str | None = None) -> Iterator[str]:
        """A database of a new name, dropped afterwards; yields its name."""
        name = f"backfill_test_{uuid4().hex[:12]}"
        self.create_database(name, template)
        try:
            yield name
        finally:
            self.drop_database(name)

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(statement)


class RedisServer:
    """A running Redis whose logical databases the tests share out.

    Args:
        url: of the server; a database in it is ignored.
    """

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._last = 0

    def url(self, db: int = 0) -> str:
        """The URL of one of its logical databases."""
        return urlunsplit(self._parts._replace(path=f"/{db}"))

    @contextmanager
    def database(self) -> Iterator[str]:
        """An empty logical database, emptied again afterwards; yields its URL.

        Never number 0, nor one with somebody's data: a server that was named for the tests by
        mistake loses nothing. They are taken in turn, so that a late write by a process of the
        last test does not meet the next one.
        """
        for step in range(15):
            number = (self._last + step) % 15 + 1
            client = redis.Redis.from_url(self.url(number))
            try:
                if client.dbsize() == 0:
                    self._last = number
                    break
            finally:
                client.close()
        else:
            pytest.fail("no logical database of Redis is empty: look at 1 to 15, and flush them")
        try:
            yield self.url(number)
        finally:
            client = redis.Redis.from_url(self.url(number))
            client.flushdb()
            client.close()


def embedded_postgres(
    settings: Mapping[str, str | int | float] = FAST, *, bin_directory: Path | None = None
) -> LocalPostgres:
    """A PostgreSQL for tests, not started yet: its temporary data lie in memory if there is room.

    A database is 300 files: copying a template takes 0.01 s in memory, on a slow disk 0.3 s.

    Args:
        bin_directory: None: what BACKFILL_TEST_POSTGRES_BIN names (see tests/versions.py), else
            `backfill.local.binaries` looks for one.
    """
    named = os.environ.get("BACKFILL_TEST_POSTGRES_BIN")
    if bin_directory is None and named:
        bin_directory = Path(named)
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 4 * 1024**3
    return LocalPostgres(
        settings=settings, temporary_in=memory if roomy else None, bin_directory=bin_directory
    )


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """The PostgreSQL for the session, started if need be."""
    given = os.environ.get("BACKFILL_TEST_DATABASE_URL")
    if given:
        yield PostgresServer(_answering_postgres(given))
    elif container_engine_answers():
        from testcontainers.community.postgres import PostgresContainer

        container = PostgresContainer(POSTGRES_IMAGE, driver=None).with_command(
            "postgres -c fsync=off -c synchronous_commit=off"
        )
        with container:
            yield PostgresServer(container.get_connection_url())
    else:
        with embedded_postgres() as local:
            yield PostgresServer(local.url())


@contextmanager
def running_redis() -> Iterator[RedisServer]:
    """The Redis for the session, started if need be."""
    given = os.environ.get("BACKFILL_TEST_REDIS_URL")
    if given:
        yield RedisServer(_answering_redis(given))
    elif container_engine_answers():
        from testcontainers.community.redis import RedisContainer

        container = RedisContainer(REDIS_IMAGE).with_command(
            "valkey-server --maxmemory-policy noeviction"
        )
        with container:
            host, port = container.get_container_host_ip(), container.get_exposed_port(6379)
            yield RedisServer(f"redis://{host}:{port}")
    else:
        with LocalRedis(appendonly=False) as local:
            yield RedisServer(local.url())


def container_engine_answers() -> bool:
    """True where containers can be started; a `docker` client alone does not mean that."""
    with warnings.catch_warnings():
        # Without an engine docker-py drops its socket unclosed, and pytest would blame a test.
        warnings.simplefilter("ignore", ResourceWarning)
        answers = _docker_answers()
        gc.collect()
    return answers


def _docker_answers() -> bool:
    import docker

    try:
        client = docker.from_env(timeout=2)
    except docker.errors.DockerException:
        return False
    try:
        return bool(client.ping())
    except (docker.errors.DockerException, OSError):
        return False
    finally:
        client.close()


def _answering_postgres(url: str) -> str:
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.OperationalError as error:
        # psycopg's message names host and user, never the password.
        pytest.fail(f"BACKFILL_TEST_DATABASE_URL does not answer: {error}", pytrace=False)
    return url


def _answering_redis(url: str) -> str:
    client = redis.Redis.from_url(url, socket_timeout=5)
    try:
        client.ping()
    except redis.RedisError as error:
        pytest.fail(f"BACKFILL_TEST_REDIS_URL does not answer: {error}", pytrace=False)
    finally:
        client.close()
    return url
