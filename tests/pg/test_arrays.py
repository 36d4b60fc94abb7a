"""Arrays as text: what is read back is what was written."""

from __future__ import annotations

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import sql

from backfill.model import Key
from backfill.pg.connect import Connection
from backfill.pg.keyset import Keyset, array_literal, key_arrays
from tests.pg.awkward import AWKWARD

ON_ONE_CONNECTION = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

TEXTS = st.lists(st.none() | AWKWARD, max_size=12)


@ON_ONE_CONNECTION
@given(values=TEXTS)
@example(values=[])
@example(values=[""])
@example(values=[None])
@example(values=["NULL", None, "null"])
@example(values=["a", 'b","c'])
@example(values=['"', "\\", '\\"', "\\\\", "{", "}", ","])
@example(values=["\n", "\t", "\r", "\v", " ", "\x85", "\u2028", "\U0001f600"])
def test_an_array_literal_is_read_back_as_the_same_values(
    pg: Connection, values: list[str | None]
) -> None:
    row = pg.execute("SELECT %s::text[]", [array_literal(values)]).fetchone()
    assert row == (values,)


@ON_ONE_CONNECTION
@given(keys=st.lists(st.tuples(AWKWARD, AWKWARD), max_size=6))
def test_arrays_of_keys_keep_the_columns_of_a_key_together(pg: Connection, keys: list[Key]) -> None:
    keyset = Keyset(table="t", name="t", columns=("a", "b"), types=("text", "text"), matches="TRUE")
    rows = pg.execute(
        sql.SQL("SELECT * FROM {}").format(keyset.unnested()), key_arrays(keys, 2)
    ).fetchall()
    assert rows == keys
