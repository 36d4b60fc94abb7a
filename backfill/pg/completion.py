"""SQL of the completion check: what of a slice is still to be done (I2). No locks are taken.

Parameters as in keyset.py.
"""

from __future__ import annotations

from psycopg import sql

from backfill.pg.catalog import identifier
from backfill.pg.keyset import Keyset
from backfill.pg.once import made_once


@made_once
def remaining(keyset: Keyset, *, after: bool) -> sql.Composed:
    """The completion check of the next `%(rows)s` keys between the bounds (no locks).

    Returns how many of them are ours, how many they are, and the last of them, as one text[]
    (NULL: none).
    """
    return sql.SQL(
        "SELECT count(*) FILTER (WHERE _ours), count(*),"
        " CASE WHEN count(*) > 0 THEN ARRAY[{last}] END"
        " FROM (SELECT {key}, ({matches}) IS TRUE AS _ours FROM {table} WHERE {between}"
        " ORDER BY {key} LIMIT %(rows)s) AS _s"
    ).format(
        last=sql.SQL(", ").join(
            sql.SQL("(array_agg({}))[count(*)]::text").format(identifier(column))
            for column in keyset.columns
        ),
        key=keyset.key,
        matches=keyset.condition,
        table=keyset.from_table,
        between=keyset.between(after=after),
    )


def examples(keyset: Keyset, *, after: bool) -> sql.Composed:
    """A few keys between the bounds that are ours, for an error's text."""
    return sql.SQL("SELECT {} FROM {} WHERE {} AND ({}) ORDER BY {} LIMIT 3").format(
        keyset.text_array(),
        keyset.from_table,
        keyset.between(after=after),
        keyset.condition,
        keyset.key,
    )
