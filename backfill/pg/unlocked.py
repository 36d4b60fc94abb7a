"""SQL for rows that are read without locks, and taken later if they are still what was read.

What was read of a row is kept as its seal: 64 bits of a hash over the text of the columns read,
with a seed of the reader's own. A row whose seal is another when it is locked has changed. So every
type can be compared, also those without an equality (json, xml, point), values that are equal and
not the same differ, as the transform may tell them apart (1.0 and 1.00, citext, collations that
know no case), and a value of a megabyte is not sent back to be compared.

Nothing here needs a table: `Keyset.from_table` may be anything under the keyset's name that gives
the key's columns in order, as long as nobody asks to lock it (`unchanged`). A table has no other
name in these statements, so that what names it with its schema finds it.

Parameters as in keyset.py; `seed` is the seals'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import LiteralString

from psycopg import sql

from backfill.pg.catalog import identifier
from backfill.pg.keyset import PLACE, Keyset, RowLock


def seal(keyset: Keyset, columns: Sequence[str]) -> sql.Composed:
    """The seal of a row in these columns; NULL never."""
    return sql.SQL('hashtextextended(ROW({})::text COLLATE "C", %(seed)s::bigint)').format(
        _qualified(keyset, columns)
    )


def columns_of(keyset: Keyset, columns: Sequence[str]) -> list[sql.Composable]:
    """The expressions that give these columns as they are."""
    return [sql.SQL("{}.{}").format(_name(keyset), identifier(column)) for column in columns]


def page(
    keyset: Keyset,
    *,
    after: bool,
    values: Sequence[sql.Composable],
    needs: Sequence[str] | None,
    repeats: bool = False,
) -> sql.Composed:
    """The next rows that are ours, in the key's order; looks at `%(scan_rows)s` keys at most.

    Args:
        values: what is read of a row; the rows are visible under the keyset's own name.
        needs: the columns of which `values` are made; None: any.
        repeats: no index says that the key is unique, so each row's key is compared with the one
            before it, and one row more is looked at and told: that behind the page's last.

    Returns:
        A line a row, `%(page_rows)s` at most: whether it is ours (the last key looked at is told
        even if it is not), its place among the keys looked at, whether the row before it has the
        same key, its key's texts, the values.
    """
    more = sql.SQL(" + 1" if repeats else "")
    place = sql.SQL(", row_number() OVER () AS _bf_place" if repeats else "")
    is_wanted = "_bf_ours AND _bf_place <= %(page_rows)s" if repeats else "_bf_ours"
    again = "rank() OVER (ORDER BY {key}) < row_number() OVER (ORDER BY {key})"
    return sql.SQL(
        "SELECT _bf_ours, _bf_n, _bf_again, {selected} FROM ("
        " SELECT *{place} FROM ("
        " SELECT {needed}, ({matches}) IS TRUE AS _bf_ours,"
        " row_number() OVER (ORDER BY {key}) AS _bf_n, {again} AS _bf_again"
        " FROM {table} WHERE {whole} AND {between} ORDER BY {key}"
        " LIMIT %(scan_rows)s{more}) AS _bf_scan"
        " WHERE _bf_ours OR _bf_again OR _bf_n = %(scan_rows)s LIMIT %(page_rows)s{more}) AS {name}"
        " ORDER BY _bf_n"
    ).format(
        whole=keyset.is_whole_or_ours,
        more=more,
        place=place,
        again=sql.SQL(again if repeats else "FALSE").format(key=keyset.key),
        selected=_selected(keyset, [_if(is_wanted, value) for value in values]),
        needed=sql.SQL("{}.*").format(_name(keyset))
        if needs is None
        else _qualified(keyset, list(dict.fromkeys([*keyset.columns, *needs]))),
        name=_name(keyset),
        matches=keyset.condition,
        key=keyset.key,
        table=keyset.from_table,
        between=keyset.between(after=after),
    )


def again(keyset: Keyset, *, values: Sequence[sql.Composable]) -> sql.Composed:
    """Those of the keys `k_0 …` that are ours, in order: their places and the values."""
    return sql.SQL("SELECT {} FROM {}, {} WHERE {} AND ({}) ORDER BY {}").format(
        sql.SQL(", ").join([PLACE, *values]),
        keyset.from_table,
        keyset.unnested(numbered=True),
        _joined(keyset),
        keyset.condition,
        _qualified(keyset, keyset.columns),  # by itself it would be the text of the same name
    )


def unchanged(keyset: Keyset, *, columns: Sequence[str], lock: RowLock) -> sql.Composed:
    """Lock those of the keys `k_0 …` that are ours and have their seals of `seals`; in order.

    What others hold is passed by. Returns the keys' places. Scope and seal are tested again on the
    newest version of a row when it is locked.
    """
    return sql.SQL(
        "SELECT {} FROM {}, {} WHERE {} AND ({}) AND {} = _bf._v0 ORDER BY {} {} OF {} SKIP LOCKED"
    ).format(
        PLACE,
        keyset.from_table,
        keyset.unnested([("seals", "bigint")], numbered=True),
        keyset.joined(),
        keyset.condition,
        seal(keyset, columns),
        keyset.key,
        sql.SQL(lock),
        identifier(keyset.name),
    )


def _name(keyset: Keyset) -> sql.Identifier:
    return identifier(keyset.name)


def _qualified(keyset: Keyset, columns: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(columns_of(keyset, columns))


def _joined(keyset: Keyset) -> sql.Composed:
    return sql.SQL(" AND ").join(
        sql.SQL("{}.{} = _bf.{}").format(_name(keyset), identifier(c), sql.Identifier(f"_k{i}"))
        for i, c in enumerate(keyset.columns)
    )


def _selected(keyset: Keyset, values: Sequence[sql.Composable]) -> sql.Composed:
    texts = [sql.SQL("{}::text").format(column) for column in columns_of(keyset, keyset.columns)]
    return sql.SQL(", ").join([*texts, *values])


def _if(condition: LiteralString, value: sql.Composable) -> sql.Composed:
    """An expression may fail on a row that is not ours, such as a division by what may be 0."""
    return sql.SQL("CASE WHEN {} THEN {} END").format(sql.SQL(condition), value)
