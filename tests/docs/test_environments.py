"""The page on environments, played with three databases; its questions on a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack

import click
import psycopg
import pytest

from backfill.cli.root import cli
from tests.docs.pages import ROOT, blocks, prose
from tests.docs.reader import DONE, Reader
from tests.services import PostgresServer

PAGE = ROOT / "docs" / "how-to" / "environments.md"
USERS = """
CREATE TABLE users (id bigint PRIMARY KEY, email text, email_lower text);
INSERT INTO users SELECT i, 'User' || i || '@Example.org' FROM generate_series(1, 1000) AS i;
ANALYZE users;
"""


def filled(url: str) -> int:
    with psycopg.connect(url) as conn:
        row = conn.execute("SELECT count(email_lower) FROM users").fetchone()
    assert row is not None
    return int(row[0])


def has_ledger(url: str) -> bool:
    with psycopg.connect(url) as conn:
        return conn.execute("SELECT to_regnamespace('backfill')").fetchone() != (None,)


@pytest.mark.slow
def test_each_environment_is_written_where_the_page_says_so(
    reader: Reader, postgres_server: PostgresServer, redis_url: str
) -> None:
    with ExitStack() as stack:
        names = {
            stack.enter_context(postgres_server.database()): name
            for name in ("shop_dev", "shop", "shop_archive")
        }
        development, production, archive = map(postgres_server.url, names)
        for url in (development, production, archive):
            with psycopg.connect(url, autocommit=True) as conn:
                conn.execute(USERS)
        other = reader.folder.parent / "production"
        reader.names = {**names, str(reader.folder): "/srv/shop"}
        reader.stands_for = {
            "postgresql://me@localhost:5432/shop_dev": development,
            "postgresql://me@db.example.org:5432/shop": production,
            "postgresql://me@localhost:5432/shop_archive": archive,
            "redis://localhost:6379/0": redis_url,
            "/srv/shop-production": str(other),
        }
        there = Reader(
            folder=other,
            environ={},
            stands_for={
                "postgresql://me@localhost:5432/shop_dev": production,
                "redis://localhost:6379/0": redis_url,
            },
        )
        for block in blocks(PAGE, "toml", "python", "ini")[:3]:
            there.do(block)
        for block in blocks(PAGE, *DONE):
            reader.do(block)
            if "[y/N]: n" in block.text:
                assert not has_ledger(production), "it was written to after a no"
        assert [filled(development), filled(production), filled(archive)] == [1000, 0, 1000]
        with psycopg.connect(production) as conn:
            assert conn.execute("SELECT job FROM backfill.run").fetchall() == [("lower_email",)]


def asking(command: click.Command, path: str = "") -> Iterator[str]:
    """The commands that can be told --yes, so that ask without it."""
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), name)
            assert found is not None
            yield from asking(found, f"{path} {name}".strip())
    elif any("--yes" in param.opts for param in command.params):
        yield path


def test_the_page_lists_every_command_that_asks() -> None:
    (line,) = re.findall(r"^- Asked are (.+?)\. \[", prose(PAGE), re.MULTILINE)
    assert sorted(re.findall(r"`([^`]+)`", line)) == sorted(asking(cli))
