"""A table's name that a declaration takes is the one that PostgreSQL would find by it."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from psycopg import sql

from backfill.errors import DeclarationError
from backfill.job.identifier import MAX_NAME_BYTES, same_table, table_name
from backfill.pg.connect import Connection
from tests.pg.test_arrays import ON_ONE_CONNECTION

_LETTERS = st.text("aA_$1\"'.;%{} \t\u2003éÉΣς\u0131\u0130ß\u0663-", max_size=8)
_QUOTED = (
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
    .map(lambda name: name.encode()[:MAX_NAME_BYTES].decode(errors="ignore") or "a")
    .map(lambda name: '"' + name.replace('"', '""') + '"')
)
NAMES = (
    st.text(max_size=12)
    | _LETTERS
    | _QUOTED
    | st.tuples(_QUOTED | _LETTERS, _QUOTED | _LETTERS).map(".".join)
)


def taken(text: str) -> str | None:
    """The name as a declaration takes it; None: it does not."""
    try:
        return table_name("Table", text)
    except DeclarationError:
        return None


def parsed(pg: Connection, name: str) -> list[str]:
    row = pg.execute("SELECT parse_ident(%s)", [name]).fetchone()
    assert row is not None
    return [str(part) for part in row[0]]


@ON_ONE_CONNECTION
@given(text=NAMES)
@example(text="users; DROP TABLE users")
@example(text='"a""; DROP TABLE users; --"')
@example(text="a\u2003.b")
@example(text="a" * 64)
@example(text=f'"{"é" * 32}"')
def test_what_is_taken_names_one_table_for_postgresql_and_nothing_else(
    pg: Connection, text: str
) -> None:
    name = taken(text)
    if name is None:
        return
    parts = parsed(pg, name)
    assert 1 <= len(parts) <= 2
    assert all(len(part.encode()) <= MAX_NAME_BYTES for part in parts), "it would be cut off"
    written = sql.Identifier(*parts).as_string(pg)
    assert parsed(pg, written) == parts
    assert same_table(name, written)
    pg.execute("SELECT to_regclass(%s)", [name])  # no error either


@ON_ONE_CONNECTION
@given(one=NAMES, other=NAMES)
@example(one="É", other="é")
@example(one="Users", other='"users"')
def test_names_of_the_same_table_are_those_that_postgresql_reads_alike(
    pg: Connection, one: str, other: str
) -> None:
    names = taken(one), taken(other)
    if names[0] is not None and names[1] is not None:
        alike = parsed(pg, names[0]) == parsed(pg, names[1])
        assert same_table(names[0], names[1]) == alike
