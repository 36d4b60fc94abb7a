"""Walking a table by its key: each matching row once, in PostgreSQL's order, whatever the type.

I2 (none is skipped), I6 (PostgreSQL compares and sorts; cursors are its text). What is expected is
always one plain SELECT.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from backfill.model import Key
from backfill.pg.catalog import relation
from backfill.pg.completion import examples, remaining
from backfill.pg.connect import Connection, Limits, transaction
from backfill.pg.keyset import Keyset, at_places, bound, key_arrays
from tests.pg.awkward import AWKWARD, WORD
from tests.profiles import share_of_examples

#: The table's rows come and go with each example.
ON_ONE_TABLE = settings(
    share_of_examples(100), suppress_health_check=[HealthCheck.function_scoped_fixture]
)

TIME = st.datetimes().map(lambda at: f"{at.isoformat()}-03:30")

#: Type by type, keys as text that PostgreSQL reads.
VALUES: dict[str, st.SearchStrategy[str]] = {
    "smallint": st.integers(-(2**15), 2**15 - 1).map(str),
    "bigint": st.integers(-(2**63), 2**63 - 1).map(str),
    "numeric": st.decimals(-(10**20), 10**20).map(str)
    | st.sampled_from(["NaN", "Infinity", "-Infinity", "1e-30", "0", "1.0", "1.00"]),
    "double precision": st.floats().map(str),
    "real": st.floats(width=32).map(str),
    "text": AWKWARD,
    "varchar(5)": AWKWARD.filter(lambda text: len(text) <= 5),
    "char(5)": AWKWARD.map(lambda text: text[:5]),
    'text COLLATE "C"': AWKWARD,
    "uuid": st.uuids().map(str),
    "date": st.dates().map(str) | st.sampled_from(["infinity", "-infinity", "0044-03-15 BC"]),
    "timestamptz": TIME | st.sampled_from(["infinity", "-infinity", "4713-01-01 00:00:00+00 BC"]),
    "timestamp": st.datetimes().map(str),
    "interval": st.timedeltas().map(lambda delta: f"{delta.days} days {delta.seconds} seconds")
    | st.sampled_from(["1 month", "30 days", "-1 month 1 day"]),
    "bytea": st.binary(max_size=4).map(lambda data: "\\x" + data.hex()),
    "bit varying": st.text("01", max_size=6),
    "inet": st.ip_addresses().map(str),
    "mood": st.sampled_from(["sad", "ok", "happy"]),
    "shout": WORD.map(str.upper),
    "boolean": st.sampled_from(["true", "false"]),
}
KEYS: list[tuple[str, ...]] = [
    *((name,) for name in VALUES),
    ("smallint", "text"),
    ("text", "bigint"),
    ("mood", "uuid"),
    ("boolean", "date", "numeric"),
    ("char(5)", "timestamptz"),
]
CONDITIONS = ["TRUE", "n > 3", "n %% 4 = 1", "n IS NULL", "NOT (n > 3)", "FALSE"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """A table's keys (few values in all but the last column), a scope, and sizes."""

    types: tuple[str, ...]
    rows: Sequence[tuple[tuple[str, ...], int | None]]
    condition: str
    page_rows: Sequence[int]
    scan_rows: int
    slice_rows: int


@st.composite
def walks(draw: st.DrawFn) -> Walk:
    types = draw(st.sampled_from(KEYS))
    few = [draw(st.lists(VALUES[name], min_size=1, max_size=3)) for name in types[:-1]]
    key = st.tuples(*(st.sampled_from(values) for values in few), VALUES[types[-1]])
    size = draw(st.sampled_from([30, 12, 3, 0]))
    rows = st.lists(st.tuples(key, st.none() | st.integers(0, 9)), min_size=size, max_size=size)
    return Walk(
        types=types,
        rows=draw(rows),
        condition=draw(st.sampled_from(CONDITIONS)),
        page_rows=draw(st.lists(st.integers(1, 12), min_size=1, max_size=4)),
        scan_rows=draw(st.integers(1, 40)),
        slice_rows=draw(st.integers(1, 40)),
    )


@pytest.fixture
def typed(pg: Connection) -> Connection:
    pg.execute(
        "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');"
        " CREATE DOMAIN shout AS varchar(9) CHECK (VALUE = upper(VALUE))"
    )
    pg.prepare_threshold = None  # tables of one name and other types come and go
    return pg


@contextmanager
def table(conn: Connection, walk: Walk) -> Iterator[Keyset]:
    """The table `Walked` in a transaction under the engine's settings, which is rolled back."""
    columns = [f"Key {i}" for i in range(len(walk.types))]
    definitions = sql.SQL(", ").join(
        sql.SQL("{} {} NOT NULL").format(sql.Identifier(column), sql.SQL(type_))
        for column, type_ in zip(columns, walk.types, strict=True)
    )
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    with suppress(RollBack), transaction(conn):
        conn.execute(
            sql.SQL('CREATE TABLE "Walked" ({}, n int, PRIMARY KEY ({}))').format(
                definitions, names
            )
        )
        with conn.cursor() as cursor:
            cursor.executemany(
                sql.SQL('INSERT INTO "Walked" VALUES ({}) ON CONFLICT DO NOTHING').format(
                    sql.SQL(", ").join([sql.Placeholder()] * (len(columns) + 1))
                ),
                [(*key, n) for key, n in walk.rows],
            )
        found = relation(conn, '"Walked"', used_by="test")
        yield Keyset(
            table=found.qualified,
            name=found.name,
            columns=tuple(columns),
            types=tuple(found.columns[column].type for column in columns),
            matches=walk.condition,
        )
        raise RollBack


class RollBack(Exception):
    """Ends an example's transaction."""


def select(conn: Connection, keyset: Keyset, condition: str = "TRUE") -> list[Key]:
    """What PostgreSQL says: the keys that match, in its order."""
    rows = conn.execute(
        sql.SQL("SELECT {} FROM {} WHERE {} ORDER BY {}").format(
            keyset.text_array(), keyset.from_table, sql.SQL(condition), keyset.key
        ),
        {},
    )
    return [tuple(row[0]) for row in rows]


def slices(conn: Connection, keyset: Keyset, rows: int) -> Iterator[tuple[Key | None, Key]]:
    """The intervals `(after, upto]` up to the last key, as the frontier places them."""
    last = conn.execute(keyset.last_key()).fetchone()
    if last is None:
        return
    after: Key | None = None
    while True:
        row = conn.execute(
            keyset.nth_key(after=after is not None),
            {**bound("after", after), **bound("upto", last[0]), "rows": rows},
        ).fetchone()
        upto = tuple(last[0] if row is None else row[0])
        yield after, upto
        if upto == tuple(last[0]):
            return
        after = upto


@dataclass(frozen=True, slots=True)
class Paged:
    """What one page's statement said; see `Keyset.page`."""

    kept: int
    paged: int
    place: int | None
    last: Key | None
    taken: list[Key]
    values: list[Any]


def get_page(
    conn: Connection,
    keyset: Keyset,
    after: Key | None,
    upto: Key,
    *,
    page_rows: int,
    scan_rows: int,
    columns: tuple[str, ...] | None,
) -> Paged:
    lines = conn.execute(
        keyset.page(after=after is not None, lock="FOR NO KEY UPDATE", columns=columns),
        {
            **bound("after", after),
            **bound("upto", upto),
            "page_rows": page_rows,
            "scan_rows": scan_rows,
        },
    ).fetchall()
    head, *lines = lines
    kept, paged, place, *last = head[0]
    assert all(line[0] is None for line in lines)
    width = len(keyset.columns)
    if columns is None:
        assert not lines
        _, count, *arrays = head
        taken = [] if arrays[0] is None else list(zip(*arrays, strict=True))
        assert count == len(taken)
        values = []
    else:
        taken = [tuple(line[1 : 1 + width]) for line in lines]
        values = [line[1 + width :] for line in lines]
    return Paged(
        int(kept),
        int(paged),
        None if place is None else int(place),
        tuple(last) or None,
        taken,
        values,
    )


@pytest.mark.parametrize("with_rows", [False, True])
@ON_ONE_TABLE
@given(walk=walks())
def test_pages_visit_each_matching_row_once_and_in_order(
    typed: Connection, walk: Walk, with_rows: bool
) -> None:
    with table(typed, walk) as keyset:
        visited: list[Key] = []
        values: list[Any] = []
        turn = 0
        for after, upto in slices(typed, keyset, walk.slice_rows):
            cursor = after
            while True:
                rows = walk.page_rows[turn % len(walk.page_rows)]
                turn += 1
                page = get_page(
                    typed,
                    keyset,
                    cursor,
                    upto,
                    page_rows=rows,
                    scan_rows=walk.scan_rows,
                    columns=(*keyset.columns, "n") if with_rows else None,
                )
                assert page.paged == len(page.taken) <= rows
                visited += page.taken
                values += [line[-1] for line in page.values]
                if page.kept < rows and page.place != walk.scan_rows:
                    break
                assert page.last is not None
                cursor = page.last
        assert visited == select(typed, keyset, walk.condition)
        if with_rows:
            ns = typed.execute(
                sql.SQL('SELECT n FROM "Walked" WHERE {} ORDER BY {}').format(
                    keyset.condition, keyset.key
                ),
                {},
            ).fetchall()
            assert [(n,) for n in values] == ns


@ON_ONE_TABLE
@given(walk=walks())
def test_slices_tile_the_keys_and_hold_as_many_as_they_should(
    typed: Connection, walk: Walk
) -> None:
    with table(typed, walk) as keyset:
        keys = select(typed, keyset)
        ends = [upto for _, upto in slices(typed, keyset, walk.slice_rows)]
        expected = keys[walk.slice_rows - 1 :: walk.slice_rows]
        if keys and expected[-1:] != keys[-1:]:
            expected.append(keys[-1])
        assert ends == expected


@ON_ONE_TABLE
@given(walk=walks(), data=st.data())
def test_given_keys_are_found_again_as_far_as_they_match(
    typed: Connection, walk: Walk, data: st.DataObject
) -> None:
    with table(typed, walk) as keyset:
        everything = select(typed, keyset)
        ours = select(typed, keyset, walk.condition)
        some = data.draw(st.sets(st.sampled_from(everything))) if everything else set()
        asked = list(some)
        arrays = key_arrays(asked, len(walk.types))

        taken = typed.execute(keyset.take(lock="FOR NO KEY UPDATE", columns=["n"]), arrays)
        there = [key for key in ours if key in some]
        assert at_places(asked, taken) == (there, [key for key in asked if key not in there])
        waited = typed.execute(keyset.take(lock="FOR UPDATE", columns=None, waiting=True), arrays)
        assert at_places(asked, waited)[0] == there
        assert set(at_places(asked, typed.execute(keyset.still_ours(), arrays))[0]) == set(there)

        for after, upto in slices(typed, keyset, walk.slice_rows):
            first = 0 if after is None else everything.index(after) + 1
            within = set(everything[first : everything.index(upto) + 1]) & set(ours)
            bounds = {**bound("after", after), **bound("upto", upto)}
            left = typed.execute(keyset.left(after=after is not None), {**bounds, **arrays})
            assert set(left) == within - some
            keys = everything[first : everything.index(upto) + 1][: walk.scan_rows]
            counted = typed.execute(
                remaining(keyset, after=after is not None), {**bounds, "rows": walk.scan_rows}
            ).fetchone()
            last = list(keys[-1]) if keys else None
            assert counted == (len(within & set(keys)), len(keys), last)
            shown = typed.execute(examples(keyset, after=after is not None), bounds).fetchall()
            assert [tuple(line[0]) for line in shown] == [k for k in ours if k in within][:3]


@pytest.mark.parametrize("columns", [None, ("id", "n")], ids=["keys", "rows"])
def test_rows_that_others_hold_are_on_the_page_and_are_not_taken(
    pg: Connection, db_url: str, columns: tuple[str, ...] | None
) -> None:
    """I5: nobody is waited for; I2: what was not obtained is known."""
    pg.execute("CREATE TABLE t (id int PRIMARY KEY, n int)")
    pg.execute("INSERT INTO t SELECT i, i FROM generate_series(1, 10) AS i")
    keyset = Keyset(table="t", name="t", columns=("id",), types=("integer",), matches="n > 0")
    with psycopg.connect(db_url) as other:
        other.execute("SELECT FROM t WHERE id IN (2, 5) FOR UPDATE")
        other.execute("UPDATE t SET n = 0 WHERE id = 7")
        other.execute("DELETE FROM t WHERE id = 8")
        with transaction(pg):
            page = get_page(pg, keyset, None, ("10",), page_rows=9, scan_rows=100, columns=columns)
            others = {"2", "5", "7", "8"}
            assert page.paged == 9
            assert page.last == ("9",)
            assert page.taken == [(str(i),) for i in range(1, 10) if str(i) not in others]
            left = pg.execute(
                keyset.left(after=False), {"upto_0": "9", **key_arrays(page.taken, 1)}
            ).fetchall()
            assert {key for (key,) in left} == others
        other.commit()
    with transaction(pg):
        asked = [("2",), ("7",), ("8",)]
        places = pg.execute(keyset.still_ours(), key_arrays(asked, 1))
        assert at_places(asked, places) == ([("2",)], [("7",), ("8",)])


def test_waiting_for_a_row_ends_with_the_lock_timeout(pg: Connection, db_url: str) -> None:
    pg.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    keyset = Keyset(table="t", name="t", columns=("id",), types=("integer",), matches="TRUE")
    limits = Limits(lock_timeout_seconds=0.05, statement_timeout_seconds=5.0)
    with psycopg.connect(db_url) as other:
        other.execute("SELECT FROM t FOR UPDATE")
        with pytest.raises(psycopg.errors.LockNotAvailable), transaction(pg, limits):
            pg.execute(
                keyset.take(lock="FOR NO KEY UPDATE", columns=None, waiting=True), {"k_0": "{1}"}
            )


@pytest.mark.parametrize("after", [False, True])
def test_a_page_of_a_composite_key_reads_no_more_than_its_own_keys(
    pg: Connection, after: bool
) -> None:
    pg.execute("CREATE TABLE t (a int, b text, n int, PRIMARY KEY (a, b))")
    pg.execute("INSERT INTO t SELECT i / 100, i::text, i FROM generate_series(1, 20000) AS i")
    pg.execute("ANALYZE t")
    keyset = Keyset(
        table="t", name="t", columns=("a", "b"), types=("integer", "text"), matches="n %% 2 = 0"
    )
    with transaction(pg, in_batch=True):
        plan = pg.execute(
            sql.SQL("EXPLAIN ANALYZE ")
            + keyset.page(after=after, lock="FOR NO KEY UPDATE", columns=None),
            {
                **(bound("after", ("100", "10050")) if after else {}),
                **bound("upto", ("150", "z")),
                "page_rows": 50,
                "scan_rows": 5000,
            },
        ).fetchall()
    lines = [line for (line,) in plan]
    scans = [line for line in lines if " on t " in line or " on t_pkey " in line]
    assert len(scans) >= 2, lines
    assert not any("Seq Scan on t" in scan for scan in scans), lines
    for scan in scans:
        read = float(scan.split("(actual ")[1].split("rows=")[1].split()[0])
        # fifty matches are on a hundred keys; 15,000 lie between the bounds
        assert read <= 101, lines
