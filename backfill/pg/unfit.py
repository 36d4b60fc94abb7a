"""SQL that finds keys that cannot serve: those that two rows have, and those with a NULL.

Of a table with a unique index on NOT NULL columns there are none. There may be where no index says
so: over tables that inherit from each other, in queries, views, foreign tables. No locks are taken.
Parameters as in keyset.py.
"""

from __future__ import annotations

from psycopg import sql

from backfill.pg.catalog import as_template, identifier
from backfill.pg.keyset import Keyset
from backfill.pg.once import made_once


@made_once
def twice_between(keyset: Keyset, *, after: bool) -> sql.Composed:
    """A key between the bounds that two rows have, ours or not; no line: none."""
    return sql.SQL("SELECT {} FROM {} WHERE {} GROUP BY {key} HAVING count(*) > 1 LIMIT 1").format(
        keyset.text_array(), keyset.from_table, keyset.between(after=after), key=keyset.key
    )


@made_once
def twice_among(keyset: Keyset) -> sql.Composed:
    """One of the keys `k_0 …` that two rows have, ours or not; no line: none."""
    return sql.SQL("SELECT {} FROM {}, {} WHERE {} GROUP BY {} HAVING count(*) > 1 LIMIT 1").format(
        keyset.text_array(), keyset.from_table, keyset.unnested(), keyset.joined(), keyset.key
    )


def null_first(keyset: Keyset) -> sql.Composed:
    """A key that is ours and whose first column is NULL: no bound has it on either side."""
    return sql.SQL("SELECT {} FROM {} WHERE {} IS NULL AND ({}) LIMIT 1").format(
        keyset.text_array(), keyset.from_table, identifier(keyset.columns[0]), keyset.condition
    )


@made_once
def null_behind(keyset: Keyset) -> sql.Composed:
    """A key that is ours and like `after_0 …` as far as to a NULL; no line: none.

    Its row is sorted behind that key, and is not greater: a row comparison that comes to a NULL is
    NULL. A page finds it only where it begins before all that is alike.
    """
    columns = [identifier(column) for column in keyset.columns]
    found = sql.SQL("{} IS NULL").format(columns[-1])
    for i, column in reversed(list(enumerate(columns[:-1]))):
        same = sql.SQL("{} = {}::{}").format(
            column, sql.Placeholder(f"after_{i}"), as_template(keyset.types[i])
        )
        found = sql.SQL("{} AND ({})").format(same, found)
        if i:
            found = sql.SQL("{} IS NULL OR {}").format(column, found)
    return sql.SQL("SELECT {} FROM {} WHERE {} AND ({}) LIMIT 1").format(
        keyset.text_array(), keyset.from_table, found, keyset.condition
    )
