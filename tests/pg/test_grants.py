"""The rights on the ledger are those that the program's statements need, no less and no more."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import backfill
from backfill.errors import UsageError
from backfill.pg.grants import LEDGER_RIGHTS, Right, default_rights, grants, remark, role_name

_VERB = re.compile(r"(INSERT INTO|UPDATE|DELETE FROM|FROM|JOIN)\s+(?:\{s\}|\{\})\.([a-z_]+)")
_RIGHT = {"INSERT INTO": "INSERT", "UPDATE": "UPDATE", "DELETE FROM": "DELETE"}


def in_statements() -> dict[str, set[str]]:
    """By table, what the statements in the package's source do to it."""
    needed: dict[str, set[str]] = {}
    for text in _texts():
        for found in _VERB.finditer(text):
            rights = needed.setdefault(found[2], set())
            rights.add(_RIGHT.get(found[1], "SELECT"))
            upsert = re.search(r"ON CONFLICT \([a-z_, ]+\) DO UPDATE", text[found.end() :])
            if found[1] == "INSERT INTO" and upsert:
                rights.add("UPDATE")
    return needed


def _texts() -> Iterator[str]:
    for file in Path(backfill.__file__).parent.rglob("*.py"):
        if "local" in file.parts:  # the demo looks at its ledger as a superuser
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_each_right_on_the_ledger_is_needed_by_a_statement_and_none_is_missing() -> None:
    assert in_statements() == {table: set(rights) for table, rights in LEDGER_RIGHTS.items()}


def test_the_rights_name_the_ledgers_tables_and_columns(conn: psycopg.Connection) -> None:
    found: dict[str, set[str]] = {}
    for table, column in conn.execute(
        "SELECT table_name, column_name FROM information_schema.columns"
        " WHERE table_schema = 'backfill'"
    ):
        found.setdefault(table, set()).add(column)
    assert set(LEDGER_RIGHTS) == set(found)
    for table, rights in LEDGER_RIGHTS.items():
        assert {column for columns in rights.values() for column in columns} <= found[table]


def test_what_is_on_one_thing_is_one_statement_and_names_are_quoted() -> None:
    rights = [
        Right(privilege="SELECT", on="public.t"),
        Right(privilege="UPDATE", on="public.t", columns=('a"b', "c")),
        Right(privilege="SELECT", on="public.t"),
        Right(privilege="USAGE", on="SCHEMA public"),
    ]
    assert list(grants(rights, role_name('x"; DROP TABLE t; --'))) == [
        'GRANT SELECT, UPDATE ("a""b", "c") ON public.t TO "x""; DROP TABLE t; --";',
        'GRANT USAGE ON SCHEMA public TO "x""; DROP TABLE t; --";',
    ]
    assert default_rights('s"', owner=role_name("o"), role=role_name("r")) == (
        'ALTER DEFAULT PRIVILEGES FOR ROLE "o" IN SCHEMA "s""" GRANT SELECT, INSERT, UPDATE, DELETE'
        ' ON TABLES TO "r";'
    )
    assert remark("a job\n; DROP TABLE t;\r\v--") == "-- a job ; DROP TABLE t; --"


@pytest.mark.parametrize("name", ["", "a\x00b", "public", "PUBLIC", "none", "x" * 64])
def test_what_grant_would_not_take_for_this_role_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"(?i)role"):
        role_name(name)
