"""SQL for a source that is a query over a table: keys are paged and locked in the table.

The table's own key is walked, so that each statement looks at a bounded number of keys however the
query is made; which of them are ours is asked of the query key by key, by an EXISTS. OFFSET 0 keeps
PostgreSQL from merging the query with what is around it: so the key is handed into it, under a
GROUP BY, too, and the query is never computed as a whole.

When the table's rows are locked, the query is read again for exactly their keys, in a statement of
its own: a locking statement would show the other tables as they were when it began.

A query that names no table is walked by its own key (`as_source`): the bounds of a page stand
outside it, and PostgreSQL takes them into it where it can, such as into a GROUP BY of the key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from psycopg import sql

from backfill.model import Key
from backfill.pg.catalog import identifier, identifiers
from backfill.pg.keyset import Keyset

_ROWS_NAME = "_bf_query"
#: How the user's fragments know the rows of the query.
ROWS = sql.Identifier(_ROWS_NAME)


class QueryKeyset(Keyset):
    """A keyset whose `table` is a query, with psycopg's placeholders; nothing of it is locked."""

    @property
    def from_table(self) -> sql.Composable:
        return sql.SQL("({}) AS {}").format(sql.SQL(self.table), ROWS)

    @property
    def row(self) -> sql.Composable:
        return ROWS


@dataclass(frozen=True, slots=True, kw_only=True)
class QuerySql:
    """A query as psycopg wants it.

    Attributes:
        text: the query, with psycopg's placeholders.
        todo: true of a row of it that is not done; `TRUE` for all.
    """

    text: str
    todo: str

    def described(self) -> sql.Composed:
        """Returns no rows, but which columns there are."""
        return sql.SQL("SELECT * FROM ({}) AS {} LIMIT 0").format(self._text, ROWS)

    def exists(self, keyset: Keyset) -> sql.Composed:
        """True of a row of the keyset's table that the query gives and that is not done."""
        return sql.SQL("EXISTS ({})").format(self._rows_of_key(keyset, sql.SQL("")))

    def read(self, keyset: Keyset, columns: Sequence[str]) -> sql.Composed:
        """The rows of the keys `k_0 …`: of each its key's place among them, from 1; the columns.

        In the order of the keys; a key of two rows comes twice, one of none not at all.
        """
        return sql.SQL("SELECT {} FROM {} ORDER BY _n").format(
            sql.SQL(", ").join([sql.SQL("_n"), *map(identifier, columns)]), self.rows(keyset)
        )

    def as_table(self, keyset: Keyset, columns: Sequence[str]) -> QueryKeyset:
        """The query in the table's place, for rows that are read without locks.

        Every row of the table is in it, so that a page is bounded by the table's keys; ours are
        those that the query gives, in which `keyset` says so.
        """
        others = [column for column in columns if column not in keyset.columns]
        selected = [
            *(
                sql.SQL("{}.{}").format(keyset.from_table, identifier(column))
                for column in keyset.columns
            ),
            *(sql.SQL("{}.{}").format(ROWS, identifier(column)) for column in others),
        ]
        table = sql.SQL(
            "SELECT {}, ({}) IS TRUE AS _bf_there FROM {} LEFT JOIN LATERAL ({}) AS {rows} ON TRUE"
        ).format(
            sql.SQL(", ").join(selected),
            keyset.condition,
            keyset.from_table,
            self._rows_of_key(keyset, sql.SQL("*")),
            rows=ROWS,
        )
        return QueryKeyset(
            table=table.as_string(None),
            name=_ROWS_NAME,
            columns=keyset.columns,
            types=keyset.types,
            matches="_bf_there",
            begins=keyset.begins,
        )

    def as_source(self, key: Key, types: Sequence[str]) -> QueryKeyset:
        """The query by itself, walked by its own key, where it names no table."""
        return QueryKeyset(
            table=self.text,
            name=_ROWS_NAME,
            columns=key,
            types=tuple(types),
            matches=f"({self.todo})",
            leads=True,
        )

    def update(self, keyset: Keyset, values: Mapping[str, sql.Composable]) -> sql.Composed:
        """Write expressions over the query's rows into the table's rows of the keys `k_0 …`."""
        return sql.SQL("UPDATE {} SET {} FROM (SELECT {}, {} FROM {}) AS _bf WHERE {}").format(
            keyset.from_table,
            sql.SQL(", ").join(
                sql.SQL("{} = _bf.{}").format(identifier(column), sql.Identifier(f"_v{i}"))
                for i, column in enumerate(values)
            ),
            identifiers([f"_k{i}" for i in range(len(keyset.columns))]),
            sql.SQL(", ").join(
                sql.SQL("{} AS {}").format(value, sql.Identifier(f"_v{i}"))
                for i, value in enumerate(values.values())
            ),
            self.rows(keyset),
            keyset.joined(),
        )

    def rows(self, keyset: Keyset) -> sql.Composed:
        """A FROM item: the query's rows of the keys `k_0 …`, each with `_k0 …` and its place."""
        return sql.SQL(
            "(SELECT _bf.*, {rows}.* FROM {keys}, {table}, LATERAL ({query}) AS {rows}"
            " WHERE {joined}) AS {rows}"
        ).format(
            rows=ROWS,
            keys=keyset.unnested(numbered=True),
            table=keyset.from_table,
            query=self._rows_of_key(keyset, sql.SQL("*")),
            joined=keyset.joined(),
        )

    @property
    def _text(self) -> sql.SQL:
        return sql.SQL(self.text)  # the user's own SQL, from their job

    def _rows_of_key(self, keyset: Keyset, selected: sql.SQL) -> sql.Composed:
        return sql.SQL("SELECT {} FROM ({}) AS {} WHERE {} AND ({}) OFFSET 0").format(
            selected,
            self._text,
            ROWS,
            sql.SQL(" AND ").join(
                sql.SQL("{}.{key} = {}.{key}").format(
                    ROWS, keyset.from_table, key=identifier(column)
                )
                for column in keyset.columns
            ),
            sql.SQL(self.todo),
        )
