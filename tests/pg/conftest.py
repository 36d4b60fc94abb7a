"""The engine's own connection to a database with the ledger, and a role that may do nothing."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from backfill.pg.connect import Connection, connect
from backfill.pg.ledger import Ledger, open_ledger
from tests.pg.holding import RUN, insert_run
from tests.services import PostgresServer


@pytest.fixture
def pg(db_url: str) -> Iterator[Connection]:
    """A connection as the engine opens it, to the test's database."""
    with connect(db_url) as connection:
        yield connection


@pytest.fixture
def ledger(pg: Connection) -> Ledger:
    return open_ledger(pg, schema="backfill")


@pytest.fixture
def run(pg: Connection) -> str:
    """The id of a run at work, without slices."""
    insert_run(pg, RUN)
    return RUN


@pytest.fixture
def bare_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a new database without a ledger."""
    with postgres_server.database() as name:
        yield postgres_server.url(name)


@pytest.fixture
def bare(bare_url: str) -> Iterator[Connection]:
    """A connection to a new database without a ledger."""
    with connect(bare_url) as connection:
        yield connection


@pytest.fixture
def stranger(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of a role that may do nothing but what everybody may.

    Ask for it before the database in which it is granted something: the database goes first.
    """
    name = f"backfill_test_{uuid4().hex[:12]}"
    with psycopg.connect(postgres_server.url(), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(name)))
        try:
            yield name
        finally:
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
