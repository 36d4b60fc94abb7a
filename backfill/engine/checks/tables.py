"""Findings about what the job's tables are."""

from __future__ import annotations

from collections.abc import Iterator

from backfill.engine.checks.finding import Finding, error
from backfill.errors import DeclarationError
from backfill.job.declaration import Declaration
from backfill.pg.catalog import Relation

_KINDS = {
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
    "S": "sequence",
    "i": "index",
    "c": "composite type",
    "t": "TOAST table",
}


def table_of(declaration: Declaration) -> str:
    """The table whose rows are locked.

    Raises:
        DeclarationError: the source is a query without one.
    """
    table = declaration.source.table
    if table is None:
        raise DeclarationError(
            f"{declaration.job_class.__name__}.source: the query names no table whose rows can be"
            " locked",
            remedy='Name it: Query("SELECT …", key="id", table="users").',
        )
    return table


def check_kind(declaration: Declaration, source: Relation) -> Iterator[Finding]:
    """Rows can be locked one by one in tables only."""
    if source.kind not in {"r", "p"}:
        remedy = "Name the table whose rows are to be taken."
        if source.kind in {"v", "m"}:
            remedy = (
                "Name the table that it is made of, and its key there:"
                f' Query("SELECT * FROM {source.qualified}", key="…", table="…").'
            )
        yield error(
            "source-no-table",
            f"{declaration.job_class.__name__}.source: {source.qualified} is no table"
            f" (it is a {_KINDS.get(source.kind, '?')})",
            why="Its rows cannot be locked, so they could change while they are worked on.",
            remedy=remedy,
            refusal=DeclarationError,
        )
