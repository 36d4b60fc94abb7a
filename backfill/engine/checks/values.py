"""A finding about what PostgreSQL computes: it must be one value for each row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from psycopg import sql

from backfill.engine.checks.finding import Finding, error
from backfill.engine.checks.statements import refusal_of, told_of
from backfill.errors import ProjectError
from backfill.job.secret import Secrets
from backfill.pg.connect import Connection

#: Where PostgreSQL's source says that an aggregate, a window function or a function that returns a
#: set may not stand in a place (parse_agg.c, parse_func.c).
_REFUSING = {
    "check_agglevels_and_constraints",
    "transformWindowFuncCall",
    "check_srf_call_placement",
}


def check_values(
    conn: Connection,
    row_by_row: sql.Composable,
    arguments: Mapping[str, Any],
    *,
    name: str,
    secrets: Secrets,
) -> Iterator[Finding]:
    """An Insert's expressions must be of one row each.

    Args:
        row_by_row: a statement in which nothing else may stand (`Subject.row_by_row`).
        name: the job's class.
        secrets: among the arguments.
    """
    refusal = refusal_of(conn, row_by_row, arguments)
    if refusal is None or refusal.diag.source_function not in _REFUSING:
        return
    yield error(
        "not-one-value",
        f"{name}.transform: an expression does not give one value for each row:"
        f" {told_of(refusal, secrets)}",
        why="It is computed for a page of rows at once, which would give more rows than the page"
        " has, or fewer, and other values with other pages.",
        remedy="Aggregate in a sub-select, as in (SELECT count(*) FROM …); make several rows of one"
        " with a Python transform, or in a source Query.",
        refusal=ProjectError,
    )
