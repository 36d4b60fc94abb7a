"""What is read of rows without locks, and what becomes of those that change meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from backfill.job import Call
from backfill.job.declaration import Declaration
from backfill.pg import unlocked
from backfill.pg.keyset import Keyset


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How the rows of a run are read without locks.

    Attributes:
        values: the expressions, in the order in which they are returned.
        needs: the columns of which they are made; None: any.
        sealed: the columns whose change defers a row.
        takes: rows are locked before they are written, and those that changed are deferred;
            otherwise what was read counts, whatever became of the row meanwhile.
    """

    values: Sequence[sql.Composable]
    needs: tuple[str, ...] | None
    sealed: tuple[str, ...]
    takes: bool


def reading_of(declaration: Declaration, keyset: Keyset, columns: tuple[str, ...]) -> Reading:
    """How a Python transform's rows are read.

    Args:
        columns: what the transform is given.
    """
    return Reading(
        values=unlocked.columns_of(keyset, columns),
        needs=columns,
        sealed=columns,
        takes=not isinstance(declaration.target, Call),
    )
