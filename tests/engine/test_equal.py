"""Whatever the table, the sizes and the interruptions: the result is that of one plain statement.

I1 (each key's effect happens once), I2 (none is skipped, the counts add up),
I3 (a lost holder changes nothing but the speed), I6 (the order is PostgreSQL's).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import new_class
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from backfill.engine import page, verify
from backfill.job import Delete, Insert, Job, Options, Row, Sql, Table, Update
from backfill.job.target import Target
from backfill.pg.ledger import Run
from tests.engine.factory import Worksite
from tests.engine.strikes import STRIKES, Strike, work_through
from tests.profiles import share_of_examples

# --- what is worked on ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyKind:
    """The types of a key's columns, and its values as text."""

    types: tuple[str, ...]
    values: st.SearchStrategy[tuple[str, ...]]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(f"k{i}" for i in range(len(self.types)))


def texts(*parts: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.tuples(*(part.map(str) for part in parts))


WORDS = st.text(alphabet="aAbÄß0 _-'\"\\{},%\n", max_size=3)
KEYS = [
    # close together, with gaps, and at the ends of the type
    KeyKind(("bigint",), texts(st.integers(-99, 99) | st.sampled_from([-(2**63), 2**63 - 1]))),
    KeyKind(("int",), texts(st.integers(1, 200))),
    KeyKind(("uuid",), texts(st.uuids())),
    KeyKind(("text",), texts(WORDS)),
    KeyKind(
        ("timestamptz",),
        texts(
            st.sampled_from(["infinity", "-infinity", "0044-03-15 12:00:00+00 BC"])
            | st.datetimes().map(lambda at: f"{at.isoformat()}+02:00")
        ),
    ),
    KeyKind(("int", "text"), texts(st.integers(1, 99), WORDS)),
    # many keys share their first column, so that slices and pages end between them
    KeyKind(("int", "text"), texts(st.integers(1, 2), WORDS)),
    KeyKind(
        ("text", "numeric"),
        texts(
            st.sampled_from("aB"),
            st.sampled_from(["NaN", "Infinity", "-Infinity"])
            | st.decimals(-(10**6), 10**6, places=2),
        ),
    ),
]

#: Of all rows, half of them, few, and none.
SCOPES = [None, "n >= 5", "note IS NOT NULL", "n % 7 = 3", "n = 77"]
TODOS = [None, "out IS NULL", "done IS NOT TRUE"]
Mode = Literal["sql", "row", "batch", "copy", "insert sql", "insert rows", "delete", "delete some"]
MODES: list[Mode] = [
    *("sql", "row", "batch", "copy", "insert sql", "insert rows", "delete", "delete some")
]

#: What an update writes, for PostgreSQL and for Python.
OUT = "coalesce(note, '-') || ':' || coalesce(n::text, '-') || ':' || hits"


def out_of(row: Row) -> str:
    return f"{'-' if row.note is None else row.note}:{'-' if row.n is None else row.n}:{row.hits}"


def is_left(row: Row) -> bool:
    """Rows that Python leaves as they are; `LEFT` says the same."""
    return bool(row.n == 4)


LEFT = "n IS NOT DISTINCT FROM 4"


def updated(row: Row) -> dict[str, object] | None:
    return None if is_left(row) else {"out": out_of(row), "hits": row.hits + 1, "done": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A table's content, a job over it, and how it is worked and disturbed."""

    key: KeyKind
    rows: Sequence[tuple[tuple[str, ...], int | None, str | None, bool | None]]
    mode: Mode
    where: str | None
    todo: str | None
    options: Options
    scan_rows: int
    verify_rows: int
    strikes: Sequence[Strike]

    @property
    def is_insert(self) -> bool:
        return self.mode in {"copy", "insert sql", "insert rows"}

    @property
    def matches(self) -> str:
        """Which rows are ours at the beginning."""
        return " AND ".join(f"({part})" for part in (self.where, self.todo) if part) or "TRUE"

    def job(self) -> type[Job]:
        todo = self.todo
        if todo is not None and self.is_insert:
            # a row is done when it is in the other table
            pairs = " AND ".join(f"c.{k} = t.{k}" for k in self.key.columns)
            todo = f"({todo}) AND NOT EXISTS (SELECT FROM copy AS c WHERE {pairs})"
        members: dict[str, object] = {
            "source": Table("t", where=self.where, todo=todo),
            **_parts(self.mode, self.key.columns),
        }
        return new_class("Fill", (Job,), exec_body=lambda body: body.update(members))

    def plain(self) -> str:
        """The one statement that does the same to the tables `expected` and `expected_copy`."""
        kept = f"{self.matches} AND NOT ({LEFT})"
        keys = ", ".join(self.key.columns)
        update = f"UPDATE expected SET out = {OUT}, hits = hits + 1, done = true WHERE"
        insert = f"INSERT INTO expected_copy SELECT {keys},"
        match self.mode:
            case "sql":
                return f"{update} {self.matches}"
            case "row" | "batch":
                return f"{update} {kept}"
            case "copy":
                return f"{insert} out, n FROM expected WHERE {self.matches}"
            case "insert sql":
                return f"{insert} {OUT} FROM expected WHERE {self.matches}"
            case "insert rows":
                return f"{insert} part FROM expected, unnest(ARRAY['1', '2']) AS part WHERE {kept}"
            case "delete":
                return f"DELETE FROM expected WHERE {self.matches}"
            case "delete some":
                return f"DELETE FROM expected WHERE {kept}"


def _parts(mode: Mode, keys: Sequence[str]) -> Mapping[str, object]:
    match mode:
        case "sql":
            return {"target": Update(), "transform": Sql(out=OUT, hits="hits + 1", done="true")}
        case "row":
            return {
                "target": Update("out", "hits", "done"),
                "transform": lambda self, row: updated(row),
            }
        case "batch":
            return {
                "target": Update("out", "hits", "done"),
                "transform_batch": lambda self, rows: [updated(row) for row in rows],
            }
        case "copy":
            return {"target": _into_copy()}
        case "insert sql":
            return {
                "target": _into_copy(),
                "transform": Sql({**{key: key for key in keys}, "out": OUT}),
            }
        case "insert rows":
            # two rows for each key
            return {
                "target": _into_copy(),
                "transform": lambda self, row: (
                    None
                    if is_left(row)
                    else [{**{key: row[key] for key in keys}, "out": part} for part in "12"]
                ),
            }
        case "delete":
            return {"target": Delete()}
        case "delete some":
            return {"target": Delete(), "transform": lambda self, row: not is_left(row)}


def _into_copy() -> Target:
    # the table has no unique index: a row that is written twice is there twice
    return Insert("copy", on_conflict="error")


# --- the property --------------------------------------------------------------------------------


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    key = draw(st.sampled_from(KEYS))
    size = draw(st.sampled_from([80, 60, 40, 20, 10, 5, 1, 0]))
    return Task(
        key=key,
        rows=draw(
            st.lists(
                st.tuples(
                    key.values,
                    st.none() | st.integers(0, 9),
                    st.none() | WORDS,
                    st.none() | st.booleans(),
                ),
                min_size=size,
                max_size=size,
                unique_by=lambda row: row[0],
            )
        ),
        mode=draw(st.sampled_from(MODES)),
        where=draw(st.none() | st.sampled_from(SCOPES)),
        todo=draw(st.sampled_from(TODOS)),
        options=Options(
            batch_rows=draw(st.integers(1, 8) | st.integers(1, 50)),
            slice_rows=draw(st.integers(5, 40) | st.integers(1, 100)),
            concurrency=draw(st.integers(1, 3)),
        ),
        scan_rows=draw(st.integers(1, 60)),
        verify_rows=draw(st.integers(1, 60)),
        strikes=draw(st.lists(STRIKES, min_size=draw(st.integers(0, 3)), max_size=4)),
    )


@given(task=tasks())
@settings(
    share_of_examples(120),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    # shrinking takes minutes here, and threads make it wander
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.target],
)
@pytest.mark.timeout(1200)
def test_the_result_is_that_of_one_plain_statement(site: Worksite, task: Task) -> None:
    site.conn.prepare_threshold = None  # tables of the same names and other types come and go
    lay_out(site, task)
    job = task.job()
    ours = site.value(f"SELECT count(*) FROM t WHERE {task.matches}")
    changed = ours - (
        0
        if task.mode in {"sql", "copy", "insert sql", "delete"}
        else site.value(f"SELECT count(*) FROM t WHERE {task.matches} AND {LEFT}")
    )
    site.execute(task.plain())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "LEAST_SCAN_ROWS", task.scan_rows)
        patch.setattr(page, "SCAN_ROWS_PER_ROW", 1)
        patch.setattr(verify, "PAGE_ROWS", task.verify_rows)
        run = site.enqueue(job, options=task.options)
        done = work_through(site, job, run, threads=task.options.concurrency, strikes=task.strikes)

    note(f"{done.run.state}: {done.counts}, events {done.event_names}, {done.run.failure}")
    assert done.state == "succeeded", (done.pauses, done.run.failure)
    for table in ("t", "copy"):
        assert differences(site, table, f"expected{'' if table == 't' else '_copy'}") == []
    assert (done.counts.paged, done.counts.written) == (ours, changed)
    assert done.counts.unchanged == ours - changed
    assert done.counts.settled == ours
    assert done.quarantine == []
    check_slices(site, task, run)


def lay_out(site: Worksite, task: Task) -> None:
    """The table `t`, what it was, and what it is to become; another table to insert into."""
    site.execute("DROP TABLE IF EXISTS t, original, expected, copy, expected_copy")
    site.execute("TRUNCATE backfill.run CASCADE")
    keys = ", ".join(task.key.columns)
    typed = ", ".join(
        f"{c} {t} NOT NULL" for c, t in zip(task.key.columns, task.key.types, strict=True)
    )
    site.execute(
        f"CREATE TABLE t ({typed}, n int, note text, done boolean, out text,"
        f" hits int NOT NULL DEFAULT 0, PRIMARY KEY ({keys}))"
    )
    with site.conn.cursor() as cursor:
        cursor.executemany(
            f"INSERT INTO t ({keys}, n, note, done, out)"
            f" VALUES ({', '.join(['%s'] * len(task.key.columns))}, %s, %s, %s, %s)"
            " ON CONFLICT DO NOTHING",
            [(*key, n, text, done, "set" if done else None) for key, n, text, done in task.rows],
        )
    site.execute("CREATE TABLE original AS TABLE t")
    site.execute("CREATE TABLE expected AS TABLE t")
    site.execute(f"CREATE TABLE copy AS SELECT {keys}, out, n FROM t WHERE false")
    site.execute("CREATE TABLE expected_copy AS TABLE copy")


def differences(site: Worksite, found: str, expected: str) -> list[tuple[Any, ...]]:
    """Lines that are in one table and not, or not as often, in the other."""
    return site.rows(
        f"(SELECT 'too much', x.*::text FROM (TABLE {found} EXCEPT ALL TABLE {expected}) AS x)"
        f" UNION ALL (SELECT 'missing', x.*::text"
        f" FROM (TABLE {expected} EXCEPT ALL TABLE {found}) AS x)"
    )


def check_slices(site: Worksite, task: Task, run: Run) -> None:
    """They tile the keys up to the horizon, and each paged what is its own."""
    slices = site.rows(
        'SELECT "after", upto, phase, pass, deferred FROM backfill.slice WHERE run = %s'
        " ORDER BY number",
        run.id,
    )
    ends = [upto for _, upto, *_ in slices]
    assert [after for after, *_ in slices] == [None, *ends][:-1]
    horizon = site.value("SELECT horizon FROM backfill.run WHERE id = %s", run.id)
    assert ends[-1:] == ([] if horizon is None else [horizon])
    assert {(phase, passes, deferred) for *_, phase, passes, deferred in slices} <= {("done", 0, 0)}
    key = f"({', '.join(task.key.columns)})"
    after, upto = (
        f"({', '.join(f's.{bound}[{i}]::{t}' for i, t in enumerate(task.key.types, 1))})"
        for bound in ('"after"', "upto")
    )
    wrong = site.rows(
        "SELECT * FROM (SELECT number, paged, (SELECT count(*) FROM original WHERE"
        f" ({task.matches}) AND (s.after IS NULL OR {key} > {after}) AND {key} <= {upto}) AS own"
        f" FROM backfill.slice AS s WHERE run = '{run.id}') AS x WHERE paged <> own"
    )
    assert wrong == []
