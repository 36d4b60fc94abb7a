"""Deferred keys in the ledger: on a page, not obtained, to be taken again by the sweep (I2).

Every change here is part of a batch's transaction, under its slice's lock.
"""

from __future__ import annotations

from collections.abc import Sequence

from backfill.model import Key
from backfill.pg.connect import Connection
from backfill.pg.keyset import array_literal
from backfill.pg.ledger import Ledger
from backfill.pg.slices import Slice


def add_deferred(conn: Connection, ledger: Ledger, held: Slice, keys: Sequence[Key]) -> int:
    """Inside the batch's transaction: remember keys to be taken again; returns how many are new."""
    return conn.execute(
        ledger.q(
            "INSERT INTO {s}.deferred (run, slice, key) SELECT %s, %s, k::text[]"
            " FROM unnest(%s::text[]) AS k ON CONFLICT DO NOTHING"
        ),
        [held.run, held.number, [array_literal(key) for key in keys]],
    ).rowcount


def deferred_keys(
    conn: Connection, ledger: Ledger, held: Slice, *, limit: int
) -> list[tuple[Key, int]]:
    """The next deferred keys of a slice with how often each was tried, least tried first."""
    return [
        (tuple(row[0]), row[1])
        for row in conn.execute(
            ledger.q(
                "SELECT key, tries FROM {s}.deferred WHERE run = %s AND slice = %s"
                " ORDER BY tries, key LIMIT %s"
            ),
            [held.run, held.number, limit],
        )
    ]


def settle_deferred(
    conn: Connection, ledger: Ledger, held: Slice, *, settled: Sequence[Key], missed: Sequence[Key]
) -> None:
    """Inside the batch's transaction: forget settled keys, count one more try of the missed."""
    if settled:
        conn.execute(
            ledger.q(
                "DELETE FROM {s}.deferred WHERE run = %s AND slice = %s AND key IN"
                " (SELECT k::text[] FROM unnest(%s::text[]) AS k)"
            ),
            [held.run, held.number, [array_literal(key) for key in settled]],
        )
    if missed:
        conn.execute(
            ledger.q(
                "UPDATE {s}.deferred SET tries = tries + 1 WHERE run = %s AND slice = %s"
                " AND key IN (SELECT k::text[] FROM unnest(%s::text[]) AS k)"
            ),
            [held.run, held.number, [array_literal(key) for key in missed]],
        )
