"""What a transform returns is written as a plain `UPDATE t SET column = %s` would write it.

Only columns of json differ, and say so: they take mappings, lists and text as JSON.
"""

from __future__ import annotations

import enum
import ipaddress
import math
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import new_class
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql
from psycopg.types.json import Json, Jsonb
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range

from backfill.engine.lines import Written
from backfill.engine.write import Values, Writer
from backfill.job import Job, Table, Update
from backfill.job.declaration import declaration_of
from backfill.model import Key
from backfill.pg import quarantine
from backfill.pg.catalog import relation
from backfill.pg.connect import Connection, transaction
from backfill.pg.keyset import Keyset
from backfill.pg.ledger import Ledger
from backfill.pg.quarantine import quarantined_rows
from backfill.pg.values import ValueTexts
from tests.pg.holding import placed


class Mood(enum.Enum):
    sad = 1
    ok = 2


class Word(enum.StrEnum):
    SAD = "sad"


class Number(enum.IntEnum):
    ONE = 1


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


PLUS_TWO = timezone(timedelta(hours=2))
#: In UTC it is another day.
AWARE = datetime(2026, 1, 2, 0, 30, tzinfo=PLUS_TWO)
UUID = uuid.UUID("0123456789abcdef0123456789abcdef")
NUMBERS = [0, 1, -5, 2**31, 2**63, 2**70, 1.0, 1.5, 0.1 + 0.2, math.nan, -math.inf, 1e300, 1e-7]
DECIMALS = [Decimal("1.50"), Decimal("NaN"), Decimal("1E+3")]
TEXTS = [
    "",
    "abc",
    "abcdef",
    "sad",
    "NULL",
    'q"\\{},',
    "5",
    "101",
    "2026-01-02",
    "{1,2}",
    "infinity",
]
TIMES = [date(2026, 1, 2), AWARE.replace(tzinfo=None), AWARE, time(1, 2), time(1, 2, tzinfo=UTC)]
SPANS = [
    Range(1, 5),
    Range(empty=True),
    Range(date(2026, 1, 1), None),
    Range(AWARE, None),
    Multirange([Range(1, 5)]),
]
LISTS = [
    [],
    [1, 2],
    ["a", None],
    [[1, 2], [3, 4]],
    [1.5, None],
    [True],
    [UUID],
    [AWARE],
    [Decimal("1.5")],
    [b"ab"],
    (1, "a"),
]
ADDRESSES = [ipaddress.ip_address("10.0.0.1"), ipaddress.ip_network("10.0.0.0/8")]
VALUES: list[Any] = [
    *(None, True, False, *NUMBERS, *DECIMALS, *TEXTS),
    *(b"\x00\xff", bytearray(b"ab"), memoryview(b"ab")),
    *(*TIMES, timedelta(days=40, seconds=5), timedelta(microseconds=-1)),
    *(UUID, *LISTS, *SPANS, *ADDRESSES, Json({"a": 1}), Jsonb([1])),
    *(Mood.sad, Word.SAD, Number.ONE, Text("abc"), Whole(7)),
]
TYPES = [
    *("text", "varchar(5)", "char(5)", '"char"', "name", "email"),
    *("smallint", "int", "bigint", "numeric", "numeric(5,2)", "float8", "float4", "oid", "bool"),
    *("date", "timestamp", "timestamptz", "time", "timetz", "interval"),
    *("uuid", "bytea", "bit(3)", "mood", "pair", "inet", "cidr", "tags"),
    *("text[]", "varchar(5)[]", "int[]", "numeric[]", "float8[]", "bool[]", "uuid[]", "bytea[]"),
    *("timestamptz[]", "timestamp[]", "date[]", "mood[]", "jsonb[]", "pair[]"),
    *("int4range", "numrange", "daterange", "tstzrange", "int4multirange"),
]


@pytest.fixture
def typed(pg: Connection) -> Connection:
    pg.execute(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a int, b text);"
        " CREATE DOMAIN email AS varchar(9) CHECK (length(VALUE) < 7);"
        " CREATE DOMAIN tags AS text[]; CREATE DOMAIN doc AS jsonb"
    )
    pg.execute("SET TimeZone = 'America/St_Johns'")  # the engine's transactions have their own
    return pg


def column(conn: Connection, type_: str) -> Callable[[Any], Written]:
    """A table `t` with one row and a column `c` of that type; a function that writes into it."""
    conn.execute(sql.SQL("CREATE TABLE t (id int PRIMARY KEY, c {})").format(sql.SQL(type_)))
    conn.execute("INSERT INTO t VALUES (1)")
    write = writer(conn)
    return lambda value: write([(("1",), [{"c": value}])])


def writer(conn: Connection) -> Callable[[Sequence[tuple[Key, Sequence[Values]]]], Written]:
    """A function that writes as a job `Fill` with `Update("c")` over `t` does."""
    members = {"source": Table("t"), "target": Update("c"), "transform": lambda self, row: None}
    fill = new_class("Fill", (Job,), exec_body=lambda body: body.update(members))
    found = relation(conn, "t", used_by="test")
    keyset = Keyset(
        table=found.qualified, name="t", columns=("id",), types=("integer",), matches="TRUE"
    )
    made = Writer(declaration_of(fill), keyset, source=found, target=found, arguments={})
    return lambda rows: made.write_values(conn, ValueTexts(conn), rows)


@contextmanager
def rolled_back(conn: Connection) -> Iterator[None]:
    """A batch's transaction, of which nothing is left."""
    with suppress(RollBack), transaction(conn, in_batch=True):
        yield
        raise RollBack


class RollBack(Exception):
    """Ends a transaction."""


def result(conn: Connection, write: Callable[[], object]) -> tuple[str, str | None]:
    """What became of `c`: (written, its text) or (refused, why)."""
    outcome: tuple[str, str | None]
    with rolled_back(conn):
        try:
            with conn.transaction():
                written = write()
        except psycopg.Error as error:
            outcome = ("refused", error.sqlstate)
        else:
            if isinstance(written, Written) and written.unfit:
                outcome = ("refused", None)
            else:
                row = conn.execute("SELECT c::text FROM t").fetchone()
                assert row is not None
                outcome = ("written", row[0])
    return outcome


@pytest.mark.parametrize("type_", TYPES)
def test_every_value_is_written_as_a_plain_update_writes_it(typed: Connection, type_: str) -> None:
    write = column(typed, type_)
    written = 0
    for value in VALUES:
        plain = result(typed, lambda: typed.execute("UPDATE t SET c = %s", [value]))  # noqa: B023 - called at once
        ours = result(typed, lambda: write(value))  # noqa: B023 - called at once
        assert ours[0] == plain[0], (value, plain, ours)
        if plain[0] == "written":
            written += plain[1] is not None
            assert ours == plain, value
    assert written


#: For values of a column's own kind: what no list of examples thinks of.
OWN_KIND: dict[str, st.SearchStrategy[Any]] = {
    "text": st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    "bigint": st.integers(-(2**63), 2**63 - 1),
    "int": st.integers(-(2**31), 2**31 - 1) | st.floats(-(2.0**31), 2.0**31 - 1),
    "numeric": st.decimals(allow_infinity=False).filter(lambda d: not d.is_snan())
    | st.integers()
    | st.floats(),
    "float8": st.floats() | st.integers(-(2**60), 2**60),
    "float4": st.floats(width=32),
    "bytea": st.binary(),
    "date": st.dates(),
    "timestamp": st.datetimes() | st.datetimes(timezones=st.timezones()),
    "timestamptz": st.datetimes() | st.datetimes(timezones=st.timezones()),
    "interval": st.timedeltas(timedelta(days=-(10**6)), timedelta(days=10**6)),
    "time": st.times(),
    "uuid": st.uuids(),
    "inet": st.ip_addresses(),
    "bool": st.booleans(),
    "text[]": st.lists(st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"))),
    "float8[]": st.lists(st.none() | st.floats()),
    "timestamptz[]": st.lists(st.datetimes(timezones=st.timezones()), max_size=3),
}


@pytest.mark.parametrize("type_", OWN_KIND)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(data=st.data())
def test_values_of_a_columns_own_kind_are_written_as_a_plain_update_writes_them(
    typed: Connection, type_: str, data: st.DataObject
) -> None:
    typed.execute("DROP TABLE IF EXISTS t")
    write = column(typed, type_)
    value = data.draw(OWN_KIND[type_])
    plain = result(typed, lambda: typed.execute("UPDATE t SET c = %s", [value]))
    ours = result(typed, lambda: write(value))
    assert ours[0] == plain[0]
    if plain[0] == "written":
        assert ours == plain


def test_values_of_different_kinds_and_nulls_share_a_batch(typed: Connection) -> None:
    typed.execute("CREATE TABLE t (id int PRIMARY KEY, c text)")
    values = [None, "abc", UUID, None, True, 5, 1.0, None, AWARE, Text("x"), [UUID], UUID]
    typed.execute(
        "INSERT INTO t SELECT i, 'before' FROM generate_series(1, %s) AS i", [len(values)]
    )
    rows = [((str(i),), [{"c": value}]) for i, value in enumerate(values, 1)]
    with transaction(typed):
        assert writer(typed)(rows).keys == len(values)
    assert typed.execute("SELECT c FROM t ORDER BY id").fetchall() == [
        (None,),
        ("abc",),
        (str(UUID),),
        (None,),
        ("true",),
        ("5",),
        ("1",),
        (None,),
        ("2026-01-01 22:30:00+00",),
        ("x",),
        (f"{{{UUID}}}",),
        (str(UUID),),
    ]


@pytest.mark.parametrize("type_", ["json", "jsonb", "doc"])
@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, None, True, "ß"]}, '{"a": [1, null, true, "ß"]}'),
        ([], "[]"),
        ("text", '"text"'),
        ('{"a": 1}', r'"{\"a\": 1}"'),
        (5, "5"),
        (1.5, "1.5"),
        (True, "true"),
        (None, None),
        (Json({"a": 1}), '{"a": 1}'),
        (Jsonb(None), "null"),
        (Word.SAD, '"sad"'),
    ],
)
def test_a_column_of_json_takes_python_values_as_json(
    typed: Connection, type_: str, value: object, text: str | None
) -> None:
    write = column(typed, type_)
    kind, found = result(typed, lambda: write(value))
    assert kind == "written"
    if text is None:
        assert found is None
    else:
        same = typed.execute("SELECT %s::jsonb = %s::jsonb", [found, text]).fetchone()
        assert same == (True,), found


class Unknown:
    """A type that neither psycopg nor JSON knows; its name is the same in every process."""

    def __repr__(self) -> str:
        return "Unknown()"


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("text", "a\x00b"),
        ("text", "\ud800"),
        ("text", Text("a\x00b")),
        ("text[]", ["a", "\x00"]),
        ("text[]", ["\udfff"]),
        ("text", Unknown()),
        ("text", {"a": 1}),
        ("text", {1, 2}),
        ("int", [1, "a"]),
        ("jsonb", {"a": Unknown()}),
        ("jsonb", {"a": math.nan}),
        ("jsonb", [math.inf]),
        ("jsonb", {1, 2}),
        ("jsonb", b"bytes"),
    ],
    ids=repr,
)
def test_a_value_without_a_form_is_its_rows_fault_and_the_others_are_written(
    typed: Connection, type_: str, value: object
) -> None:
    column(typed, type_)
    typed.execute("INSERT INTO t VALUES (2), (3)")
    rows = [((str(i),), [{"c": v}]) for i, v in [(1, None), (2, value), (3, None)]]
    with transaction(typed):
        written = writer(typed)(rows)
    assert (written.rows, written.keys, written.missing) == (2, 2, 0)
    ((key, message),) = written.unfit
    assert key == ("2",)
    assert message.startswith("column c: ")


def test_the_message_of_an_unfit_value_does_not_quote_it(typed: Connection) -> None:
    write = column(typed, "text")
    with transaction(typed):
        ((_, nul),) = write("secret\x00").unfit
        ((_, odd),) = write({"secret": 1}).unfit
    assert "secret" not in nul + odd
    assert "dict" in odd


def test_a_message_that_cannot_be_stored_is_stored_without_what_is_wrong_with_it(
    pg: Connection, ledger: Ledger, run: str
) -> None:
    held = placed(pg, ledger, 1, slot=0)
    with transaction(pg):
        quarantine.add_quarantined(pg, ledger, held, [(("1",), None, "NUL \x00, half \ud800, ß")])
    (row,) = quarantined_rows(pg, ledger, run)
    assert row.message == "NUL �, half ?, ß"
