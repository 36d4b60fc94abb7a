"""The lease of a run's hook: `before_run` and `after_run` have one caller at a time.

It is a row of `slot` with a number below every slot's, and its `sent_at` is when the lease runs
out. That instant also is the caller's fencing mark: nobody takes a lease before its end has
passed, so no two callers ever have the same one.

Concurrency rules:
- A lease is taken, and renewed, by a single statement (autocommit) on a single row.
- What follows from a hook is written in a transaction that has locked the run's row and then
  compared the mark (`is_ours`): a caller whose lease has run out and been taken writes nothing.
"""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum

from backfill.pg.connect import Connection
from backfill.pg.ledger import Ledger


class Hook(IntEnum):
    """The number in `slot` of each hook that has a lease."""

    BEFORE_RUN = -1
    AFTER_RUN = -2


def take_hook(
    conn: Connection, ledger: Ledger, run: str, hook: Hook, *, seconds: float
) -> datetime | None:
    """Take the hook's lease; its end, or None: another calls the hook now."""
    row = conn.execute(
        ledger.q(
            "INSERT INTO {s}.slot AS held (run, slot, sent_at)"
            " VALUES (%s, %s, clock_timestamp() + make_interval(secs => %s))"
            " ON CONFLICT (run, slot) DO UPDATE SET sent_at = excluded.sent_at"
            " WHERE held.sent_at < clock_timestamp() RETURNING sent_at"
        ),
        [run, int(hook), seconds],
    ).fetchone()
    return None if row is None else row[0]


def renew_hook(
    conn: Connection, ledger: Ledger, run: str, hook: Hook, *, until: datetime, seconds: float
) -> datetime | None:
    """Renew the lease that ends at `until`; its new end, or None: it is another's."""
    row = conn.execute(
        ledger.q(
            "UPDATE {s}.slot SET sent_at = clock_timestamp() + make_interval(secs => %s)"
            " WHERE run = %s AND slot = %s AND sent_at = %s RETURNING sent_at"
        ),
        [seconds, run, int(hook), until],
    ).fetchone()
    return None if row is None else row[0]


def is_ours(conn: Connection, ledger: Ledger, run: str, hook: Hook, *, until: datetime) -> bool:
    """Whether the lease that ends at `until` is still ours; in a transaction it stays so."""
    return (
        conn.execute(
            ledger.q(
                "SELECT FROM {s}.slot WHERE run = %s AND slot = %s AND sent_at = %s"
                " FOR NO KEY UPDATE"
            ),
            [run, int(hook), until],
        ).rowcount
        == 1
    )


def drop_hook(conn: Connection, ledger: Ledger, run: str, hook: Hook, *, until: datetime) -> None:
    """Give the lease back, so that another need not wait for its end; no harm if it is lost."""
    conn.execute(
        ledger.q(
            "UPDATE {s}.slot SET sent_at = clock_timestamp()"
            " WHERE run = %s AND slot = %s AND sent_at = %s"
        ),
        [run, int(hook), until],
    )
