"""What is read of rows without locks, and what becomes of those that change meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql

from backfill.engine.columns import copied_columns
from backfill.engine.rows import query_of
from backfill.job import Call
from backfill.job.declaration import Declaration, sql_fragment
from backfill.pg import unlocked
from backfill.pg.catalog import Column, Relation
from backfill.pg.keyset import Keyset

#: The type's oid (pg_type.dat), the same in every PostgreSQL.
_BPCHAR = 1042


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How the rows of a run are read without locks.

    Attributes:
        names: of what is read: columns of the source, or of the target where these are computed.
        values: the expressions, in the same order.
        needs: the columns of which they are made; None: any.
        sealed: the columns whose change defers a row; empty: what was read counts, whatever became
            of the row meanwhile.
    """

    names: tuple[str, ...]
    values: Sequence[sql.Composable]
    needs: tuple[str, ...] | None
    sealed: tuple[str, ...]

    @property
    def takes(self) -> bool:
        """Whether rows are locked before they are written, unless they have changed."""
        return bool(self.sealed)


def reading_of(
    declaration: Declaration,
    keyset: Keyset,
    columns: tuple[str, ...] | None,
    *,
    source: Relation,
    target: Relation,
) -> Reading:
    """How a job's rows are read.

    Args:
        keyset: the table's; a query stands in its place where there is one.
        columns: what a Python transform is given; None: PostgreSQL computes, and what it computes
            is written in another database, so that it is read as text.
    """
    query = query_of(declaration)
    if query is not None:
        keyset = query.as_table(keyset, columns or ())
    if columns is not None:
        takes = not isinstance(declaration.target, Call) and declaration.target_database is None
        return Reading(
            names=columns,
            values=unlocked.columns_of(keyset, columns),
            needs=columns,
            sealed=columns if takes else (),
        )
    if declaration.sql is not None:
        return Reading(
            names=tuple(declaration.sql.expressions),
            values=[
                # the user's own SQL
                sql.SQL("({})::text").format(sql.SQL(sql_fragment(text, declaration.params)))
                for text in declaration.sql.expressions.values()
            ],
            needs=None,
            sealed=(),
        )
    copied = copied_columns(declaration, source, target)
    return Reading(
        names=copied,
        values=[
            _text(column, source.columns[name])
            for name, column in zip(copied, unlocked.columns_of(keyset, copied), strict=True)
        ],
        needs=copied,
        sealed=(),
    )


def _text(value: sql.Composable, column: Column) -> sql.Composed:
    """As its type writes it; a cast would take the spaces at the end of a bpchar away."""
    if column.base_oid == _BPCHAR:
        return sql.SQL("CASE WHEN {0} IS NOT NULL THEN concat({0}) END").format(value)
    return sql.SQL("{}::text").format(value)
