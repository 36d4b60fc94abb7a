"""Who reads the pages that tell a story, and a database with the flights for those on them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from backfill.local import flights
from tests.docs.reader import Reader
from tests.services import PostgresServer

#: So many flights are enough to show what a page tells.
ROWS = 20_000


@pytest.fixture(scope="module")
def flights_template(postgres_server: PostgresServer, template_database: str) -> Iterator[str]:
    """The name of a database with the ledger and the first flights, expanded and not filled."""
    with postgres_server.database(template_database) as name:
        with psycopg.connect(postgres_server.url(name), autocommit=True) as conn:
            flights.load(conn)
            conn.execute("DELETE FROM flights WHERE id > %s", [ROWS])
            flights.expand(conn)
            conn.execute("VACUUM ANALYZE flights")
        yield name


@pytest.fixture
def flights_url(postgres_server: PostgresServer, flights_template: str) -> Iterator[str]:
    """The URL of a copy of it for one test."""
    with postgres_server.database(flights_template) as name:
        yield postgres_server.url(name)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """A reader in an empty folder, with nothing of this process's own project."""
    (tmp_path / "folder").mkdir()
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BACKFILL_", "PYTEST_", "COV_", "PG"))
    }
    reader = Reader(folder=tmp_path / "folder", environ={**environ, "PYTHONUTF8": "1"})
    try:
        yield reader
    finally:
        reader.leave()
