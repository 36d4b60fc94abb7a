"""Findings about what the job's tables are."""

from __future__ import annotations

from collections.abc import Iterator

from backfill.engine.checks.finding import Finding, error
from backfill.errors import DeclarationError
from backfill.job import Call, Insert
from backfill.job.declaration import Declaration
from backfill.pg.catalog import QUERY, Relation

_KINDS = {
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
    "S": "sequence",
    "i": "index",
    "c": "composite type",
    "t": "TOAST table",
    QUERY: "query",
}


#: What can be read, but not locked: enough for rows that are inserted elsewhere, or called for.
_READABLE = {"v", "m", "f", QUERY}


def kind_told(source: Relation) -> str:
    """What a source is, in words."""
    return _KINDS.get(source.kind, "table")


def check_kind(declaration: Declaration, source: Relation) -> Iterator[Finding]:
    """Rows can be locked one by one in tables only; others serve where nothing has to be locked."""
    target = declaration.target
    writes_elsewhere = isinstance(target, Insert | Call) and not declaration.deletes_source
    if source.is_lockable or (source.kind in _READABLE and writes_elsewhere):
        return
    remedy = "Name the table whose rows are to be taken."
    if source.kind in {"v", "m"}:
        remedy = (
            "Name the table that it is made of, and its key there:"
            f' Query("SELECT * FROM {source.qualified}", key="…", table="…").'
        )
    yield error(
        "source-no-table",
        f"{declaration.job_class.__name__}.source: {source.qualified} is no table"
        f" (it is a {kind_told(source)})",
        why="Its rows cannot be locked, so they could change while they are worked on; and they"
        " can be neither updated nor deleted by their key.",
        remedy=remedy,
        refusal=DeclarationError,
    )
