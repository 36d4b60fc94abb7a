"""The slots of a database: how many of them are filled, over all its runs."""

from __future__ import annotations

from backfill.pg.connect import Connection
from backfill.pg.ledger import Ledger


def held_by_all(conn: Connection, ledger: Ledger) -> int:
    """Slices of all runs that are held now, as the database's limit counts them."""
    row = conn.execute(
        ledger.q(
            "SELECT count(*) FROM {s}.slice"
            " WHERE slot IS NOT NULL AND lease_until > clock_timestamp()"
        )
    ).fetchone()
    return row[0] if row else 0
