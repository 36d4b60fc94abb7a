"""Putting rows into quarantine, in the transaction of the batch that refuses them."""

from __future__ import annotations

from collections.abc import Sequence

from backfill.model import Key
from backfill.pg.connect import Connection
from backfill.pg.ledger import Ledger
from backfill.pg.slices import Slice


def add_quarantined(
    conn: Connection,
    ledger: Ledger,
    held: Slice,
    rows: Sequence[tuple[Key, str | None, str]],
) -> None:
    """Inside the batch's transaction: put rows (key, SQLSTATE, message) into quarantine."""
    with conn.cursor() as cursor:
        cursor.executemany(
            ledger.q(
                "INSERT INTO {s}.quarantine (run, slice, key, sqlstate, message)"
                " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (run, slice, key) DO UPDATE SET"
                " sqlstate = excluded.sqlstate, message = excluded.message, accepted = false,"
                " since = clock_timestamp()"
            ),
            [
                (held.run, held.number, list(key), sqlstate, _storable(message))
                for key, sqlstate, message in rows
            ],
        )


def _storable(message: str) -> str:
    """Without what PostgreSQL cannot store in text: a message may quote what was refused for it."""
    return message.encode("utf-8", "replace").decode("utf-8").replace("\x00", "�")
