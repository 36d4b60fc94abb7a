"""Rows in quarantine: put there in the transaction of the batch that refuses them, and read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from psycopg.rows import dict_row

from backfill.model import Key
from backfill.pg.connect import Connection
from backfill.pg.ledger import Ledger
from backfill.pg.slices import Slice
from backfill.pg.storable import storable


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedRow:
    """One row in quarantine; `message` may quote the row."""

    slice: int
    key: Key
    sqlstate: str | None
    message: str
    accepted: bool
    since: datetime


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
                (held.run, held.number, list(key), sqlstate, storable(message))
                for key, sqlstate, message in rows
            ],
        )


def quarantined_rows(
    conn: Connection, ledger: Ledger, run: str, *, limit: int = 1000, offset: int = 0
) -> list[QuarantinedRow]:
    """A run's quarantine, oldest first."""
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            ledger.q(
                "SELECT slice, key, sqlstate, message, accepted, since FROM {s}.quarantine"
                " WHERE run = %s ORDER BY since, slice, key LIMIT %s OFFSET %s"
            ),
            [run, limit, offset],
        ).fetchall()
    return [QuarantinedRow(**{**row, "key": tuple(row["key"])}) for row in rows]


def open_quarantine(conn: Connection, ledger: Ledger, run: str) -> int:
    """How many of a run's rows are in quarantine and not accepted."""
    row = conn.execute(
        ledger.q("SELECT count(*) FROM {s}.quarantine WHERE run = %s AND NOT accepted"), [run]
    ).fetchone()
    return cast("tuple[int]", row)[0]
