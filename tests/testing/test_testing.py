"""`backfill.testing`: jobs of a test run to their end, whole and killed, and leave no trace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import psycopg
import pytest
from psycopg.rows import TupleRow

from backfill import (
    BatchInfo,
    Bounds,
    Call,
    Delete,
    Insert,
    Job,
    Options,
    Param,
    Quarantine,
    Query,
    Row,
    RunInfo,
    Sql,
    Table,
    Update,
)
from backfill.engine.write import Writer
from backfill.errors import RefusedError, UsageError
from backfill.testing import NotFinishedError, interrupt, run

TABLES = """
CREATE TABLE t (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0, label text);
INSERT INTO t (id) SELECT generate_series(1, 60);
CREATE TABLE copies (id bigint, n int);
CREATE TABLE audit (id bigint);
CREATE FUNCTION audited() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO audit VALUES (NEW.id); UPDATE t SET label = 'audited' WHERE id = NEW.id;
    RETURN NULL; END $$;
"""


@pytest.fixture
def app(conn: psycopg.Connection[TupleRow]) -> psycopg.Connection[TupleRow]:
    """The application's connection, and its tables."""
    conn.execute(TABLES)
    return conn


@pytest.fixture(autouse=True)
def leaves_no_trace(conn: psycopg.Connection[TupleRow]) -> Iterator[None]:
    yield
    found = conn.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'backfill_test%'")
    assert found.fetchall() == []
    assert conn.execute("SELECT tgname FROM pg_trigger WHERE tgname LIKE 'back%'").fetchall() == []
    assert conn.execute("SELECT FROM backfill.run").fetchall() == []


class Increment(Job):
    """Not idempotent, and nothing but the ledger knows what was done."""

    source = Table("t", where="id <= %(last)s")
    transform = Sql(n="n + 1")
    target = Update()
    last = Param(int, default=60)
    # none of this makes a test wait
    options = Options(
        rate="1/s", window="Mon 00:00-00:01 UTC", until="2020-01-01T00:00Z", duty=0.01
    )


class Label(Job):
    source = Table("t", columns=["n"], todo="label IS NULL")
    target = Update("label")

    def transform(self, row: Row) -> dict[str, object] | None:
        if row.id % 20 == 0:
            raise Quarantine("a round number")
        return None if row.id == 7 else {"label": f"row {row.id}"}


class Copy(Job):
    """Without a key in the target: a row that is copied twice is there twice."""

    source = Table("t", columns=["id", "n"])
    target = Insert("copies", on_conflict="error", columns=["id", "n"])


class Purge(Job):
    source = Table("t", where="id > 10")
    target = Delete()


# ------------------------------------------------------------------------------------------- whole


def test_the_rows_and_counts_are_those_after_the_run(db_url: str, app: Any) -> None:
    done = run(Increment, db_url, last=20)
    assert (done.state, done.counts.written, done.counts.paged) == ("succeeded", 20, 20)
    assert [row["n"] for row in done.rows] == [1] * 20 + [0] * 40
    assert done.rows[0] == {"id": 1, "n": 1, "label": None}
    # an instance, SQLAlchemy's form of a URL, bounds; again from the beginning
    url = db_url.replace("postgresql://", "postgresql+psycopg://")
    done = run(Increment(), url, bounds=Bounds(from_key=20, limit=2))
    assert [row["n"] for row in done.rows][18:23] == [1, 2, 1, 0, 0]


def test_all_rows_that_cannot_be_processed_are_told_with_their_reasons(
    db_url: str, app: Any
) -> None:
    done = run(Label, db_url)
    assert done.state == "paused"
    assert (done.counts.written, done.counts.unchanged, done.counts.quarantined) == (56, 1, 3)
    assert [(row.key, row.reason, row.sqlstate) for row in done.quarantine] == [
        (("20",), "a round number", None),
        (("40",), "a round number", None),
        (("60",), "a round number", None),
    ]


def test_the_rows_of_an_insert_are_the_targets(db_url: str, app: Any) -> None:
    done = run(Copy, db_url, bounds=Bounds(to_key=3))
    assert list(done.rows) == [{"id": 1, "n": 0}, {"id": 2, "n": 0}]
    assert len(run(Purge, db_url).rows) == 10


def test_a_job_across_databases_takes_one_url_for_each_or_one_for_all(
    db_url: str, app: Any
) -> None:
    class Across(Copy):
        target = Insert("copies", on_conflict="error", columns=["id", "n"], database="crm")

    assert len(run(Across, db_url).rows) == 60
    assert len(run(Across, "", databases={"crm": db_url, "default": db_url}).rows) == 120
    with pytest.raises(UsageError, match="the URL of the database crm"):
        run(Across, db_url, databases={"crm": "mysql://x"})


class Failing(Increment):
    def before_run(self, run: RunInfo) -> None:
        raise OSError("no bell")


def test_what_ends_a_run_is_told(db_url: str, app: psycopg.Connection[TupleRow]) -> None:
    with pytest.raises(NotFinishedError, match=r"failing is paused: .*before_run.*no bell"):
        run(Failing, db_url)
    with pytest.raises(NotFinishedError, match=r"no bell"):
        interrupt(Failing, db_url)
    with pytest.raises(UsageError, match="lost"):
        run(Increment, db_url, lost=5)
    with pytest.raises(UsageError, match="postgresql://"):
        run(Increment, "localhost")
    with psycopg.connect(db_url) as other:
        other.execute("UPDATE t SET n = 5 WHERE id = 3")
        with pytest.raises(NotFinishedError, match=r"transactions older than the run"):
            run(Increment, db_url)
        with pytest.raises(RefusedError, match="another session uses the table") as refused:
            interrupt(Increment, db_url)
        assert "Commit or roll back" in refused.value.remedy


# ------------------------------------------------------------------------------------- interrupted


def test_a_job_that_is_killed_at_every_batch_comes_to_the_same_end(
    db_url: str, app: psycopg.Connection[TupleRow]
) -> None:
    """Rows that a trigger of the user's writes are not taken for the job's."""
    app.execute(
        "CREATE TRIGGER audited AFTER UPDATE OF n ON t FOR EACH ROW EXECUTE FUNCTION audited()"
    )
    done = interrupt(Increment, db_url)
    assert {row["n"] for row in done.rows} == {1}
    assert done.kills >= 6 * 4
    assert app.execute("SELECT count(*), count(DISTINCT id) FROM audit").fetchall() == [(60, 60)]


def test_a_job_of_a_tests_own_that_reads_without_locks(db_url: str, app: Any) -> None:
    """Declared in a function: nothing can import it."""

    class Unlocked(Label):
        options = Options(lock="optimistic")

    done = interrupt(Unlocked, db_url, "after the transform")
    assert (done.kills, done.counts.written, len(done.quarantine)) == (6, 56, 3)


def test_rows_are_copied_and_deleted_once(db_url: str, app: Any) -> None:
    done = interrupt(Copy, db_url, at="before COMMIT")
    assert sorted(row["id"] for row in done.rows) == list(range(1, 61))
    assert done.kills == 6
    left = interrupt(Purge, db_url, "after COMMIT", options=Options(batch_rows=25))
    assert (len(left.rows), left.kills) == (10, 2)


class CopyGroups(Job):
    source = Query("SELECT id % 30 AS n, sum(id) AS id FROM t GROUP BY 1", key="n")
    target = Insert("copies", on_conflict="error")


class RingGroups(Job):
    source = CopyGroups.source
    target = Call()
    met: ClassVar[set[int]] = set()

    def transform(self, row: Row) -> None:
        self.met.add(row.n)


def test_the_rows_of_a_query_that_names_no_table_are_copied_once(db_url: str, app: Any) -> None:
    done = interrupt(CopyGroups, db_url)
    assert (done.counts.written, len({row["n"] for row in done.rows})) == (30, 30)
    assert done.kills >= 6 * 5
    assert run(RingGroups, db_url).rows == []
    assert RingGroups.met == set(range(30))


class Append(Job):
    source = Table("t", columns=["n"])
    target = Call()
    path = Param(str)

    def transform(self, row: Row) -> None:
        with Path(self.path).open("a") as file:
            file.write(f"{row.id}\n")


def test_calls_are_counted_by_the_test(db_url: str, app: Any, tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    done = interrupt(Append, db_url, at="after the transform", path=str(calls))
    made = calls.read_text().split()
    assert set(made) == {str(i) for i in range(1, 61)}
    assert len(made) == 60 + done.kills * 10


def test_what_is_wrong_with_a_call_of_interrupt_is_told(db_url: str, app: Any) -> None:
    with pytest.raises(UsageError, match="no point 'sometimes'") as wrong:
        interrupt(Increment, db_url, "sometimes")  # type: ignore[arg-type]
    assert "before COMMIT" in wrong.value.remedy
    with pytest.raises(UsageError, match="read without locks"):
        interrupt(Increment, db_url, "after the transform")
    with pytest.raises(AssertionError, match="had no row to take"):
        interrupt(Increment, db_url, last=0)


class LosesRows(Increment):
    """What it does to its own table is nobody's to count."""

    url = Param(str)

    def after_batch(self, batch: BatchInfo) -> None:
        with psycopg.connect(self.url) as conn:
            conn.execute("DELETE FROM t WHERE id = 60")


def test_a_row_that_is_lost_is_told(db_url: str, app: Any) -> None:
    with pytest.raises(AssertionError, match=r"60 rows were the job's .*, and 59 were taken"):
        interrupt(LosesRows, db_url, "before COMMIT", url=db_url)


def test_a_row_that_is_done_twice_is_told(
    db_url: str, app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an engine would that does not know what it has committed."""
    write = Writer.write_range

    def twice(self: Writer, *arguments: Any, **named: Any) -> Any:
        write(self, *arguments, **named)
        return write(self, *arguments, **named)

    monkeypatch.setattr(Writer, "write_range", twice)
    with pytest.raises(AssertionError, match=r"written twice: 1 \(2 times\), 10 \(2 times\)"):
        interrupt(Increment, db_url, "after COMMIT")


class Dies(Increment):
    def after_batch(self, batch: BatchInfo) -> None:
        raise SystemExit(3)


def test_a_process_that_ends_by_itself_is_told(db_url: str, app: Any) -> None:
    with pytest.raises(NotFinishedError, match=r"dies is paused|ended by itself"):
        interrupt(Dies, db_url, "before COMMIT")
