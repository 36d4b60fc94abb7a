"""Rows as they are, for a person to see: the texts of their columns, before and after a write.

Runs in a batch's transaction, so under its time-outs and its settings for texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import sql

from backfill.model import Key
from backfill.pg.catalog import QUERY, Relation, as_template, identifier
from backfill.pg.connect import Connection
from backfill.pg.keyset import Keyset, key_arrays

Image = Mapping[str, str | None]

# What the statistics of the table, or of its partitions, know of the key's first column: values
# that many rows have, and bounds of equal parts of the others.
_KNOWN = """
SELECT value::{type} AS value FROM (
    SELECT coalesce(s.most_common_vals::text::text[], '{{}}')
           || coalesce(s.histogram_bounds::text::text[], '{{}}') AS known
      FROM pg_stats s JOIN pg_namespace n ON n.nspname = s.schemaname
      JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.tablename
     WHERE c.oid = %(oid)s AND s.attname = %(column)s
     ORDER BY s.inherited DESC LIMIT 1) AS found, unnest(known) AS value
"""


def readable_columns(conn: Connection, relation: Relation) -> list[str]:
    """The columns of a table that this role may SELECT; of a query all."""
    if relation.kind == QUERY:
        return list(relation.columns)
    found = conn.execute(
        "SELECT name FROM unnest(%s::text[]) AS name"
        " WHERE has_column_privilege(%s::oid, name, 'SELECT')",
        [list(relation.columns), relation.oid],
    ).fetchall()
    allowed = {name for (name,) in found}
    return [name for name in relation.columns if name in allowed]


def texts(columns: Sequence[str], *, of: sql.Composable | None = None) -> sql.Composed:
    """`ARRAY["a"::text, …]`, of a table or of the row that a statement returns."""
    prefix = sql.SQL("") if of is None else sql.SQL("{}.").format(of)
    return sql.SQL("ARRAY[{}]::text[]").format(
        sql.SQL(", ").join(
            sql.SQL("{}{}::text").format(prefix, identifier(column)) for column in columns
        )
    )


def images(
    conn: Connection,
    keyset: Keyset,
    columns: Sequence[str],
    keys: Sequence[Key],
    *,
    arguments: Mapping[str, Any],
) -> dict[Key, Image]:
    """The rows of these keys; those that are not there are left out."""
    statement = sql.SQL("SELECT {}, {} FROM {}, {} WHERE {}").format(
        texts(keyset.columns, of=keyset.row),
        texts(columns, of=keyset.row),
        keyset.from_table,
        keyset.unnested(),
        keyset.joined(),
    )
    rows = conn.execute(
        statement, {**arguments, **key_arrays(keys, len(keyset.columns))}
    ).fetchall()
    return {tuple(key): dict(zip(columns, values, strict=True)) for key, values in rows}


def keys_between(
    conn: Connection, keyset: Keyset, *, after: bool, bounds: Mapping[str, Any]
) -> list[Key]:
    """All keys between the bounds that are ours, in order: of a page that is written by them."""
    statement = sql.SQL("SELECT {} FROM {} WHERE {} AND ({}) ORDER BY {}").format(
        keyset.text_array(),
        keyset.from_table,
        keyset.between(after=after),
        keyset.condition,
        keyset.key,
    )
    return [tuple(key) for (key,) in conn.execute(statement, bounds)]


def middle_key(conn: Connection, relation: Relation, keyset: Keyset) -> Key | None:
    """A key in the middle, by the table's statistics; None: there are none that can be read."""
    first = identifier(keyset.columns[0])
    found = conn.execute(
        sql.SQL(
            "WITH known AS MATERIALIZED ({known}) SELECT {key} FROM {table} WHERE {first} >="
            " (SELECT value FROM known ORDER BY value OFFSET (SELECT count(*) / 2 FROM known)"
            " LIMIT 1) ORDER BY {order} LIMIT 1"
        ).format(
            known=sql.SQL(_KNOWN).format(type=as_template(keyset.types[0])),
            key=keyset.text_array(),
            table=keyset.from_table,
            first=first,
            order=keyset.key,
        ),
        {"oid": relation.oid, "column": keyset.columns[0]},
    ).fetchone()
    return None if found is None else tuple(found[0])


def key_before_end(conn: Connection, keyset: Keyset, *, rows: int) -> Key | None:
    """The key of a table that so many keys follow; None: there are not so many."""
    found = conn.execute(
        sql.SQL("SELECT {} FROM {} ORDER BY {} OFFSET %(rows)s LIMIT 1").format(
            keyset.text_array(), keyset.from_table, keyset.descending
        ),
        {"rows": rows},
    ).fetchone()
    return None if found is None else tuple(found[0])
