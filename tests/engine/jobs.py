"""Jobs over the factory's table t (id, n, label, done); crash_worker.py finds them by name, too."""

from __future__ import annotations

from pathlib import Path

from backfill.job import (
    Call,
    Delete,
    Insert,
    Job,
    Options,
    Param,
    Query,
    Row,
    Sql,
    Table,
    Update,
    key_of,
)


class Increment(Job):
    """Not idempotent, and without a todo: only the ledger knows what was done."""

    source = Table("t")
    transform = Sql(n="n + 1")
    target = Update()


class IncrementInPython(Job):
    source = Table("t", columns=["n"])
    target = Update("n")

    def transform(self, row: Row) -> dict[str, object]:
        return {"n": row.n + 1}


class Label(Job):
    """With a todo: what is left can be found again."""

    source = Table("t", todo="label IS NULL")
    transform = Sql(label="'row ' || id")
    target = Update()


class LabelInPython(Job):
    source = Table("t", columns=["n"], todo="label IS NULL")
    target = Update("label")

    def transform(self, row: Row) -> dict[str, object]:
        return {"label": f"row {row.id}"}


class Purge(Job):
    """Deletes rows."""

    source = Table("t", where="n = 0")
    target = Delete()


OPTIMISTIC = Options(lock="optimistic")


class IncrementUnlocked(IncrementInPython):
    """The same, transformed outside any transaction."""

    options = OPTIMISTIC


class InsertUnlocked(Job):
    """One row into two, which a table without any key keeps count of."""

    source = Table("t", columns=["n"])
    target = Insert("copies", on_conflict="error", columns=["id", "part"])
    options = OPTIMISTIC

    def transform(self, row: Row) -> list[dict[str, object]]:
        return [{"id": row.id, "part": 1}, {"id": row.id, "part": 2}]


class InsertGroups(Job):
    """Groups of rows, of which none can be locked, into a table without any key."""

    source = Query("SELECT id % 200 AS part, sum(id) AS id FROM t GROUP BY 1", key="part")
    target = Insert("copies", on_conflict="error", columns=["id", "part"])


class InsertGroupsInSql(Job):
    source = Query("SELECT id % 200 AS half, sum(id) AS id FROM t GROUP BY 1", key="half")
    transform = Sql(id="id", part="half")
    target = Insert("copies", on_conflict="error")


class InsertGroupsInPython(InsertGroups):
    def transform(self, row: Row) -> dict[str, object]:
        return {"id": row.id, "part": row.part}


class CallByAppending(Job):
    """The effect is a line in a file, written at once: it outlives a SIGKILL."""

    source = Table("t", columns=["n"])
    target = Call()
    path = Param(str)

    def transform(self, row: Row) -> None:
        with Path(self.path).open("a") as file:
            file.write("/".join(map(str, key_of(row))) + "\n")
