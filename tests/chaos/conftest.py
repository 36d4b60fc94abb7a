"""A PostgreSQL whose settings tests may change, shared by them; and a site on it, or before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from backfill.local.postgres import LocalPostgres
from backfill.pg.install import upgrade
from tests import services
from tests.acceptance.conftest import make_crew as make_crew  # noqa: PLC0414 - a fixture
from tests.chaos.proxy import Proxy
from tests.engine.factory import Worksite

#: Few places, so that they can all be taken.
PLACES = 12


@pytest.fixture(scope="module")
def server() -> Iterator[LocalPostgres]:
    """A server of the module's own, in which commits are waited for; with the ledger in `t1`."""
    settings: dict[str, str | int | float] = {"fsync": False, "max_connections": PLACES}
    with services.embedded_postgres(settings) as postgres:
        with psycopg.connect(postgres.create_database("t1"), autocommit=True) as conn:
            upgrade(conn)
        yield postgres


@pytest.fixture
def faulty(server: LocalPostgres) -> Iterator[Worksite]:
    """A site on the module's server, in a database of its own."""
    with psycopg.connect(server.url(), autocommit=True) as conn:
        conn.execute("DROP DATABASE IF EXISTS now WITH (FORCE)")
    with closing(Worksite(server.create_database("now", "t1"))) as site:
        yield site


@pytest.fixture
def proxy(server: LocalPostgres) -> Iterator[Proxy]:
    """Before the module's server."""
    with Proxy(server.port) as made:
        yield made


def through(proxy: Proxy, url: str) -> str:
    """The same URL by way of the proxy."""
    parts = urlsplit(url)
    login = parts.netloc.rpartition("@")[0]
    host, port = proxy.address
    netloc = f"{login}@{host}:{port}" if login else f"{host}:{port}"
    return urlunsplit(parts._replace(netloc=netloc))
