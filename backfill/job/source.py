"""Where a job's rows come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backfill.errors import DeclarationError
from backfill.job.arguments import arguments
from backfill.job.fragment import first_word, locks_rows, mistake_in
from backfill.job.identifier import column_names, table_name
from backfill.job.mapped import TableLike


class Source:
    """What every source is; a job declares one as `source`."""

    __slots__ = ()


@arguments('Table("users", todo="email_lower IS NULL")')
@dataclass(frozen=True, slots=True, init=False)
class Table(Source):
    """The rows of one table; for Insert and Call also of a view or a foreign table.

    Attributes:
        table: the name as PostgreSQL parses it: `users`, `app.users`, `"Odd Name"`.
        key: the columns that order and identify rows, NOT NULL and unique together;
            None: the table's primary key, which a view and a foreign table have not.
        columns: what a Python transform reads, beside the key, which is always there; None: all.
        where: the scope: which rows are ours at all. An SQL condition; `%(name)s` binds a
            parameter.
        todo: true of a row until it is done. An SQL condition.
    """

    table: str
    key: tuple[str, ...] | None
    columns: tuple[str, ...] | None
    where: str | None
    todo: str | None

    def __init__(
        self,
        table: TableLike,
        *,
        key: str | Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        todo: str | None = None,
    ) -> None:
        """Declare a table as the source.

        Args:
            table: its name; or a Django model, or an SQLAlchemy class or Table.

        Raises:
            DeclarationError: a name or a condition that cannot be right.
        """
        if isinstance(key, str):
            key = (key,)
        keep = object.__setattr__  # the way in which a frozen dataclass sets its own fields
        keep(self, "table", table_name("Table", table))
        keep(self, "key", None if key is None else column_names("Table", "key", key))
        keep(
            self,
            "columns",
            None if columns is None else column_names("Table", "columns", columns),
        )
        keep(self, "where", _condition("where", where))
        keep(self, "todo", _condition("todo", todo))


@arguments('Query("SELECT …", key="id", table="orders")')
@dataclass(frozen=True, slots=True, init=False)
class Query(Source):
    """The rows of a query: a join, a view, a selection that no condition on one table can say.

    Attributes:
        sql: a SELECT; `%(name)s` binds a parameter. Its columns are what a transform reads.
        key: the columns that order and identify its rows.
        table: the table whose rows are locked, and written by Update and Delete; it has the key's
            columns under the same names. The query gives each of its rows once, or not at all.
            None: the query is walked by its own key, and read without locks; for Insert and Call.
        todo: true of a row of the query until it is done. An SQL condition on its columns.
    """

    sql: str
    key: tuple[str, ...]
    table: str | None
    todo: str | None

    def __init__(
        self,
        sql: str,
        *,
        key: str | Sequence[str],
        table: TableLike | None = None,
        todo: str | None = None,
    ) -> None:
        """Declare a query as the source.

        Raises:
            DeclarationError: a text, a name or a condition that cannot be right.
        """
        keep = object.__setattr__
        keep(self, "sql", _select(sql))
        keep(self, "key", column_names("Query", "key", (key,) if isinstance(key, str) else key))
        keep(self, "table", None if table is None else table_name("Query", table))
        keep(self, "todo", _condition("todo", todo, owner="Query"))


def _select(text: str) -> str:
    right = 'Write Query("SELECT o.id, c.name FROM orders o JOIN …", key="id", table="orders").'
    if (mistake := mistake_in(text)) is not None:
        raise DeclarationError(f"Query(...): its SQL {mistake}", remedy=right)
    if first_word(text) not in {"SELECT", "WITH", "VALUES", "TABLE"}:
        raise DeclarationError("Query(...): its SQL is no SELECT", remedy=right)
    if locks_rows(text):
        raise DeclarationError(
            "Query(...): its SQL locks rows itself, in no order, and would read other tables as"
            " they were before the lock",
            remedy="Take FOR UPDATE or FOR SHARE away: the rows of table= are locked.",
        )
    return text.strip()


def _condition(field: str, text: str | None, *, owner: str = "Table") -> str | None:
    if text is None:
        return None
    right = f'Write {field}="email_lower IS NULL".'
    if (mistake := mistake_in(text)) is not None:
        raise DeclarationError(f"{owner}(...): {field} {mistake}", remedy=right)
    if first_word(text) == "WHERE":
        raise DeclarationError(
            f"{owner}(...): {field} begins with the word WHERE, which is written for you",
            remedy=right,
        )
    return text.strip()
