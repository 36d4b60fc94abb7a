"""The flights' tables, loaded once and filled once; what a test changes there is rolled back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from psycopg.rows import TupleRow

from backfill.local import flights
from tests.services import PostgresServer

Conn = psycopg.Connection[TupleRow]


@contextmanager
def rolled_back(url: str) -> Iterator[Conn]:
    with psycopg.connect(url, autocommit=True) as conn, conn.transaction(force_rollback=True):
        yield conn


@pytest.fixture(scope="session")
def flights_database(postgres_server: PostgresServer, template_database: str) -> Iterator[str]:
    """The name of a database with the ledger, and the flights loaded and expanded, not filled.

    Between tests nobody is connected to it, so that it can be the template of others.
    """
    with postgres_server.database(template_database) as name:
        with psycopg.connect(postgres_server.url(name), autocommit=True) as conn:
            flights.load(conn)
            flights.expand(conn)
        yield name


@pytest.fixture(scope="session")
def filled_database(postgres_server: PostgresServer, flights_database: str) -> Iterator[str]:
    """The same, filled by the plain statements."""
    with postgres_server.database(flights_database) as name:
        with psycopg.connect(postgres_server.url(name), autocommit=True) as conn:
            for statement in flights.PLAIN.values():
                conn.execute(statement.encode())
        yield name


@pytest.fixture
def flights_conn(postgres_server: PostgresServer, flights_database: str) -> Iterator[Conn]:
    """In a transaction that is rolled back: expanded, nothing filled."""
    with rolled_back(postgres_server.url(flights_database)) as conn:
        yield conn


@pytest.fixture
def filled_conn(postgres_server: PostgresServer, filled_database: str) -> Iterator[Conn]:
    """In a transaction that is rolled back: expanded, everything filled."""
    with rolled_back(postgres_server.url(filled_database)) as conn:
        yield conn
