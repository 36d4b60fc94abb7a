"""Jobs over the factory's table t (id, n, label, done); crash_worker.py finds them by name, too."""

from __future__ import annotations

from backfill.job import Delete, Job, Row, Sql, Table, Update


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
