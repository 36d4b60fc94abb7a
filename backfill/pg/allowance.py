"""The ledger's rows for runs with a limit: what slices may still page. See engine/limit.py."""

from __future__ import annotations

from typing import cast

from backfill.pg.connect import Connection
from backfill.pg.ledger import Ledger
from backfill.pg.slices import Slice


def spent(conn: Connection, ledger: Ledger, run: str) -> tuple[int, int]:
    """Rows that were paged, and rows that slices may still page, in a transaction that has locked
    the run: nobody reserves meanwhile.

    Batches commit meanwhile; what they page leaves the allowance in the same row, so the sum holds.
    """
    row = conn.execute(
        ledger.q(
            "SELECT coalesce(sum(paged), 0)::bigint,"
            " coalesce(sum(allowance) FILTER (WHERE phase = 'walk'), 0)::bigint"
            " FROM {s}.slice WHERE run = %s"
        ),
        [run],
    ).fetchone()
    return cast("tuple[int, int]", row)


def of_slice(conn: Connection, ledger: Ledger, held: Slice) -> int:
    """How many rows a slice of a run with a limit may still page; 0, too, when it is another's."""
    row = conn.execute(
        ledger.q("SELECT allowance FROM {s}.slice WHERE run = %s AND number = %s AND epoch = %s"),
        [held.run, held.number, held.epoch],
    ).fetchone()
    return row[0] if row else 0


def allow(conn: Connection, ledger: Ledger, held: Slice, *, rows: int) -> bool:
    """Let a slice page so many rows more, inside a transaction that has locked the run.

    False when it is no longer ours.
    """
    return (
        conn.execute(
            ledger.q(
                "UPDATE {s}.slice SET allowance = allowance + %s"
                " WHERE run = %s AND number = %s AND epoch = %s AND holder IS NOT NULL"
            ),
            [rows, held.run, held.number, held.epoch],
        ).rowcount
        == 1
    )


def cut(conn: Connection, ledger: Ledger, held: Slice, *, checks_completion: bool) -> bool:
    """End a slice's walk where it is, inside a transaction that has locked the run.

    False when it is no longer ours.
    """
    return (
        conn.execute(
            ledger.q(
                "UPDATE {s}.slice SET is_cut = true, holder = NULL, slot = NULL,"
                " lease_until = NULL, phase = CASE WHEN deferred > 0 THEN 'sweep'"
                " WHEN %s THEN 'verify' ELSE 'done' END"
                " WHERE run = %s AND number = %s AND epoch = %s AND holder IS NOT NULL"
            ),
            [checks_completion, held.run, held.number, held.epoch],
        ).rowcount
        == 1
    )


def end_frontier(conn: Connection, ledger: Ledger, run: str) -> None:
    """No further slice is placed, inside a transaction that has locked the run."""
    conn.execute(ledger.q("UPDATE {s}.run SET frontier_done = true WHERE id = %s"), [run])
