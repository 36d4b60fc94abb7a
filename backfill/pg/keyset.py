"""Keyset SQL: how a page of keys is chosen, taken, and found again.

Invariants kept here:
- I6: bounds are compared and rows are sorted by PostgreSQL; composite keys by row comparison, which
  an index can serve (an OR chain was over a hundred times slower). Cursors are text, cast back to
  the column's type.
- I2: a page is bounded by keys scanned as well as by matches, and tells both apart.

Parameters are named: `after_0 …`, `upto_0 …` for bounds, `k_0 …` for arrays of keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from psycopg import sql

from backfill.model import Key
from backfill.pg.catalog import as_template, identifier, identifiers
from backfill.pg.once import made_once

RowLock = Literal["FOR SHARE", "FOR NO KEY UPDATE", "FOR UPDATE"]

#: The place of a key among those given, from 1. What was asked for is recognised by it in an answer
#: and never by the text of the row's key, which others may change to an equal value: 5.0 to 5.00,
#: citext to another case, 1 day to 24 hours.
PLACE = sql.SQL("_bf._n")


def bound(prefix: str, key: Key | None) -> dict[str, str]:
    """Parameters of one bound; none for None."""
    return {} if key is None else {f"{prefix}_{i}": part for i, part in enumerate(key)}


def array_element(text: str) -> str:
    """A text as it stands within PostgreSQL's text form of an array."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def array_literal(values: Sequence[str | None]) -> str:
    """PostgreSQL's text form of a one-dimensional array.

    Built here because it is a hot path: values in which nothing has to be escaped, the usual case,
    are joined in one go, many times faster than the driver's generic, nested form.
    """
    if not values:
        return "{}"
    if None not in values:
        joined = '","'.join(values)  # type: ignore[arg-type]  # no None is among them
        if "\\" not in joined and joined.count('"') == 2 * (len(values) - 1):
            return f'{{"{joined}"}}'
    return (
        "{" + ",".join("NULL" if value is None else array_element(value) for value in values) + "}"
    )


def key_arrays(keys: Sequence[Key], width: int) -> dict[str, str]:
    """Parameters `k_0 …` for `Keyset.unnested`: one array a key column."""
    return {f"k_{i}": array_literal([key[i] for key in keys]) for i in range(width)}


def at_places(keys: Sequence[Key], lines: Iterable[Sequence[Any]]) -> tuple[list[Key], list[Key]]:
    """Of the keys that were asked for: those that lines with their `PLACE` came for, in the lines'
    order, and the others.
    """
    places = [line[0] for line in lines]
    found = set(places)
    others = [key for place, key in enumerate(keys, 1) if place not in found]
    return [keys[place - 1] for place in places], others


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyset:
    """A table, its key, and which of its rows are ours.

    Attributes:
        table: qualified and quoted.
        name: its name by itself, unquoted: how the user's fragments and FOR UPDATE OF know it.
        columns: the key's columns.
        types: their types, as written in a cast.
        matches: `(where) AND (todo)` as SQL with psycopg's placeholders, or `TRUE`.
        begins: true from the run's first key on, in the same form; `TRUE`: from the smallest on.
        leads: it is no table, so no index says what its key is. Bounds of a composite key are
            written for its first column by itself, too, for what cannot make use of a row
            comparison: postgres_fdw does not send one. And columns of the key may be NULL.
    """

    table: str
    name: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    matches: str
    begins: str = "TRUE"
    leads: bool = False

    @property
    def from_table(self) -> sql.Composable:
        """What follows FROM or UPDATE."""
        return as_template(self.table)  # quoted by PostgreSQL's format('%I')

    @property
    def row(self) -> sql.Composable:
        """What stands before the dot of a column there."""
        return self.from_table

    @property
    def condition(self) -> sql.SQL:
        return sql.SQL(self.matches)  # the user's own SQL, from their job

    @property
    def key(self) -> sql.Composed:
        """`"a", "b"`."""
        return identifiers(self.columns)

    @property
    def descending(self) -> sql.Composed:
        """`"a" DESC, "b" DESC`."""
        return sql.SQL(", ").join(
            sql.SQL("{} DESC").format(identifier(column)) for column in self.columns
        )

    def text_array(self) -> sql.Composed:
        """The key as one text[]: how the ledger keeps it."""
        return sql.SQL("ARRAY[{}]").format(
            sql.SQL(", ").join(
                sql.SQL("{}::text").format(identifier(column)) for column in self.columns
            )
        )

    def compared(self, operator: Literal[">", "<", "<="], prefix: str) -> sql.Composed:
        """`("a", "b") > (%(after_0)s::int, %(after_1)s::text)`."""
        values = sql.SQL(", ").join(
            sql.SQL("{}::{}").format(sql.Placeholder(f"{prefix}_{i}"), as_template(type_))
            for i, type_ in enumerate(self.types)
        )
        return sql.SQL("({}) {} ({})").format(self.key, sql.SQL(operator), values)

    def between(self, *, after: bool) -> sql.Composed:
        """`(after, upto]`; without `after` the start form, from the run's first key on."""
        lower = self.compared(">", "after") if after else sql.SQL(self.begins)
        both = sql.SQL("{} AND {}").format(lower, self.compared("<=", "upto"))
        if not self.leads or len(self.columns) == 1:
            return both
        column, type_ = identifier(self.columns[0]), as_template(self.types[0])
        leading = sql.SQL("{} <= %(upto_0)s::{}").format(column, type_)
        if after:
            leading = sql.SQL("{} >= %(after_0)s::{} AND {}").format(column, type_, leading)
        return sql.SQL("{} AND {}").format(leading, both)

    def unnested(
        self, extra: Sequence[tuple[str, str]] = (), *, numbered: bool = False
    ) -> sql.Composed:
        """`unnest(%(k_0)s::int[], …) AS _bf (_k0, …)`.

        Args:
            extra: further arrays as (parameter, element type); they appear as `_v0 …`.
            numbered: each line has its place `_n`, from 1, after these.
        """
        arrays = [
            sql.SQL("{}::{}[]").format(sql.Placeholder(name), as_template(type_))
            for name, type_ in [
                *((f"k_{i}", type_) for i, type_ in enumerate(self.types)),
                *extra,
            ]
        ]
        names = [f"_k{i}" for i in range(len(self.types))] + [f"_v{i}" for i in range(len(extra))]
        return sql.SQL("unnest({}){} AS _bf ({})").format(
            sql.SQL(", ").join(arrays),
            sql.SQL(" WITH ORDINALITY" if numbered else ""),
            identifiers([*names, "_n"] if numbered else names),
        )

    def joined(self) -> sql.Composed:
        """`t."a" = _bf._k0 AND …`: the table's rows of these keys."""
        return sql.SQL(" AND ").join(
            sql.SQL("{}.{} = _bf.{}").format(self.row, identifier(column), sql.Identifier(f"_k{i}"))
            for i, column in enumerate(self.columns)
        )

    @property
    def is_whole(self) -> sql.Composable:
        """True of a row without a NULL in its key."""
        if not self.leads:
            return sql.SQL("TRUE")
        return sql.SQL(" AND ").join(
            sql.SQL("{} IS NOT NULL").format(identifier(column)) for column in self.columns
        )

    @property
    def is_whole_or_ours(self) -> sql.Composable:
        """The same, and true of rows that are ours, too, so that their NULL is met."""
        if not self.leads:
            return sql.SQL("TRUE")
        return sql.SQL("({} OR ({}))").format(self.is_whole, self.condition)

    def last_key(self, *, below: bool = False) -> sql.Composed:
        """The run's largest key in the table, with `below` of those below `below_0 …`.

        There is no max(uuid) in PostgreSQL 15, hence the order.
        """
        return sql.SQL("SELECT {} FROM {} WHERE {} AND {} AND {} ORDER BY {} LIMIT 1").format(
            self.text_array(),
            self.from_table,
            self.is_whole_or_ours,
            sql.SQL(self.begins),
            self.compared("<", "below") if below else sql.SQL("TRUE"),
            self.descending,
        )

    @made_once
    def nth_key(self, *, after: bool) -> sql.Composed:
        """The key `%(rows)s` keys further, without the scope: the upper end of the next slice.

        Reads the key's index only; no locks. Returns nothing when fewer keys are left.
        """
        # in a sub-select, so that the keys passed over are not turned into text
        return sql.SQL(
            "SELECT {} FROM (SELECT {key} FROM {} WHERE {} AND {} ORDER BY {key}"
            " OFFSET %(rows)s - 1 LIMIT 1) AS _nth"
        ).format(
            self.text_array(),
            self.from_table,
            self.is_whole,
            self.between(after=after),
            key=self.key,
        )

    @made_once
    def page(
        self, *, after: bool, lock: RowLock, columns: tuple[str, ...] | None, all_keys: bool = True
    ) -> sql.Composed:
        """Choose the next page and take its rows, in one statement and so in one snapshot.

        Parameters: `scan_rows`, the most keys to look at; `page_rows`, the most matches; bounds.

        - `_scan` walks the key's index, lazily, until it has `page_rows` matches or has looked at
          `scan_rows` keys, whose last is kept even if it does not match: there the cursor goes. It
          is one line of aggregates, because keeping the keys scanned cost a fifth of the page.
        - `_taken` locks the matching rows up to that key, in key order, and passes by what others
          hold. Both read the same snapshot, so what is taken is on the page; the scope is tested
          again on the newest version of each row when it is locked.

        Returns:
            A line with a text[]: scanned keys kept, keys on the page, the last key's place in the
            scan (NULL: none), the last key. With `columns` a line for each row taken follows, NULL
            in place of the text[]: the key's texts and these columns; in the order in which they
            were locked, which is the key's unless a key was changed just then. Without `columns`
            the one line goes on: how many were taken, and one array a key column; without
            `all_keys` the arrays are NULL when every key of a page of two or more was taken.
        """
        lasts = [sql.Identifier(f"_last_{i}") for i in range(len(self.columns))]
        about = sql.SQL(
            "ARRAY[_scan._kept::text, _scan._paged::text, _scan._n::text]"
            " || CASE WHEN _scan._kept > 0 THEN ARRAY[{}] END"
        ).format(sql.SQL(", ").join(sql.SQL("_scan.{}::text").format(last) for last in lasts))
        if columns is None:
            taken = self.key
            needed = sql.SQL(
                "TRUE" if all_keys else "_all._count < 2 OR _all._count <> _scan._paged"
            )
            # sub-selects, so that keys that are not needed are not turned into text
            select = sql.SQL(
                "SELECT {}, _all._count, {} FROM _scan,"
                " (SELECT count(*) AS _count FROM _taken) AS _all"
            ).format(
                about,
                sql.SQL(", ").join(
                    sql.SQL(
                        "CASE WHEN {} THEN (SELECT array_agg({}::text) FROM _taken) END"
                    ).format(needed, identifier(column))
                    for column in self.columns
                ),
            )
        else:
            taken = sql.SQL("{}, {}").format(self.aliased_text(), identifiers(columns))
            select = sql.SQL(
                "SELECT {}, _none.* FROM _scan LEFT JOIN (SELECT * FROM _taken LIMIT 0) AS _none"
                " ON true UNION ALL SELECT NULL, _taken.* FROM _taken"
            ).format(about)
        return sql.SQL(
            "WITH _scan AS MATERIALIZED ("
            " SELECT count(*) AS _kept, count(*) FILTER (WHERE _ours) AS _paged, max(_n) AS _n,"
            " {aggregated}"
            " FROM (SELECT * FROM ("
            " SELECT {key}, ({matches}) IS TRUE AS _ours, row_number() OVER (ORDER BY {key}) AS _n"
            " FROM {table} WHERE {between} ORDER BY {key} LIMIT %(scan_rows)s) AS _s"
            " WHERE _ours OR _n = %(scan_rows)s LIMIT %(page_rows)s) AS _s),"
            " _taken AS MATERIALIZED ("
            " SELECT {taken} FROM {table} WHERE {between}"
            " AND ({key}) <= (SELECT {last} FROM _scan) AND ({matches})"
            " ORDER BY {key} {lock} SKIP LOCKED)"
            " {select}"
        ).format(
            key=self.key,
            aggregated=sql.SQL(", ").join(
                sql.SQL("(array_agg({}))[count(*)] AS {}").format(identifier(column), last)
                for column, last in zip(self.columns, lasts, strict=True)
            ),
            last=sql.SQL(", ").join(lasts),
            matches=self.condition,
            table=self.from_table,
            between=self.between(after=after),
            taken=taken,
            lock=sql.SQL(lock),
            select=select,
        )

    def largest(self) -> sql.Composed:
        """The largest of the keys `k_0 …`, whose rows are there; compared as the table does."""
        return sql.SQL("SELECT {} FROM {}, {} WHERE {} ORDER BY {} LIMIT 1").format(
            self.text_array(),
            self.from_table,
            self.unnested(),
            self.joined(),
            self.descending,
        )

    def take(
        self, *, lock: RowLock, columns: Sequence[str] | None, waiting: bool = False
    ) -> sql.Composed:
        """Lock the rows of given keys (`k_0 …`) that are still ours, in key order.

        `waiting` waits for each, up to lock_timeout; otherwise what others hold is passed by.
        Returns the key's place among the given ones (`places`), and the columns if any, a line a
        row.
        """
        selected = sql.SQL(", ").join(
            [PLACE, *(sql.SQL("{}.{}").format(self.row, identifier(c)) for c in columns or ())]
        )
        return sql.SQL("SELECT {} FROM {}, {} WHERE {} AND ({}) ORDER BY {} {} OF {} {}").format(
            selected,
            self.from_table,
            self.unnested(numbered=True),
            self.joined(),
            self.condition,
            self.key,
            sql.SQL(lock),
            identifier(self.name),
            sql.SQL("" if waiting else "SKIP LOCKED"),
        )

    @made_once
    def left(self, *, after: bool) -> sql.Composed:
        """Keys between the bounds that are ours now and not equal to one of `k_0 …` (no locks)."""
        names = [f"_k{i}" for i in range(len(self.columns))]
        return sql.SQL(
            "SELECT {} FROM (SELECT {} FROM {} WHERE {} AND ({}) EXCEPT SELECT {} FROM {}) AS _left"
        ).format(
            sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(n)) for n in names),
            sql.SQL(", ").join(
                sql.SQL("{}.{} AS {}").format(self.row, identifier(column), sql.Identifier(name))
                for column, name in zip(self.columns, names, strict=True)
            ),
            self.from_table,
            self.between(after=after),
            self.condition,
            identifiers(names),
            self.unnested(),
        )

    def still_ours(self) -> sql.Composed:
        """The places of those of the keys `k_0 …` that are there and ours (no locks)."""
        return sql.SQL("SELECT {} FROM {}, {} WHERE {} AND ({})").format(
            PLACE,
            self.from_table,
            self.unnested(numbered=True),
            self.joined(),
            self.condition,
        )

    def quarantine_key(self) -> sql.Composed:
        """The key as the ledger keeps it, for use inside a sub-select over another table."""
        return sql.SQL("ARRAY[{}]").format(
            sql.SQL(", ").join(
                sql.SQL("{}.{}::text").format(self.row, identifier(column))
                for column in self.columns
            )
        )

    def aliased_text(self) -> sql.Composed:
        """`"a"::text AS _k0, …`."""
        return sql.SQL(", ").join(
            sql.SQL("{}.{}::text AS {}").format(
                self.row, identifier(column), sql.Identifier(f"_k{i}")
            )
            for i, column in enumerate(self.columns)
        )
