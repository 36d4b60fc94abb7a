"""What is read of rows without locks, and what becomes of those that change meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from psycopg import sql

from backfill.engine.columns import copied_columns
from backfill.engine.rows import query_of
from backfill.job import Call
from backfill.job.declaration import Declaration, sql_fragment
from backfill.pg import unlocked
from backfill.pg.catalog import Column, Relation
from backfill.pg.keyset import Keyset
from backfill.pg.query import QuerySql

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
        of_query: the columns of a query over the source's table that are read.
        may_misfit: no index says that keys are unique and NOT NULL: each page is looked over.
        computes: the values are the user's expressions, which may fail on a row.
    """

    names: tuple[str, ...]
    values: Sequence[sql.Composable]
    needs: tuple[str, ...] | None
    sealed: tuple[str, ...]
    of_query: tuple[str, ...] = ()
    may_misfit: bool = False
    computes: bool = False

    def of_keys(self) -> Reading:
        """The same without the values: where computing one of them fails."""
        return replace(self, values=[sql.SQL("NULL")] * len(self.values), computes=False)

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
            is written by another statement, if not in another database, so it is read as text.
        source: the source as it is read (rows.py).
    """
    query = query_of(declaration)
    of_query = () if query is None else columns or tuple(source.columns)
    where = keyset if query is None else query.as_table(keyset, of_query)
    reading = _reading_of(declaration, where, columns, source=source, target=target)
    may_misfit = query is not None or source.has_children or not source.is_lockable
    return replace(reading, of_query=of_query, may_misfit=may_misfit)


def readable(query: QuerySql | None, keyset: Keyset, reading: Reading) -> Keyset:
    """Where the rows are read: in the source, or in the query over its table instead."""
    return keyset if query is None else query.as_table(keyset, reading.of_query)


def _reading_of(
    declaration: Declaration,
    keyset: Keyset,
    columns: tuple[str, ...] | None,
    *,
    source: Relation,
    target: Relation,
) -> Reading:
    if columns is not None:
        takes = (
            not isinstance(declaration.target, Call)
            and declaration.target_database is None
            and source.is_lockable
        )
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
            computes=True,
        )
    copied = copied_columns(declaration, source, target)
    return Reading(
        names=copied,
        values=[
            _text(column, source.columns[name], target.columns.get(name))
            for name, column in zip(copied, unlocked.columns_of(keyset, copied), strict=True)
        ],
        needs=copied,
        sealed=(),
    )


def _text(value: sql.Composable, column: Column, written: Column | None) -> sql.Composed:
    """As its type writes it, or as an assignment would: text takes the spaces at a bpchar's end."""
    if column.base_oid == _BPCHAR and written is not None and written.base_oid == _BPCHAR:
        return sql.SQL("CASE WHEN {0} IS NOT NULL THEN concat({0}) END").format(value)
    return sql.SQL("{}::text").format(value)
