"""Freeing slices whose lease has run out, and ending the backends of holders that hang (I3).

A slice whose row a batch still holds is passed by: it is its holder's until that batch ends.

How often a slice has been lost since it last came forward is counted in the events: who dies cannot
count it. An orderly return that makes the slice wait begins the count anew as a commit does, for
it shows that whoever worked there has lived.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg.rows import dict_row

from backfill.events import Event
from backfill.pg.connect import Connection
from backfill.pg.ledger import Ledger, add_event


@dataclass(frozen=True, slots=True, kw_only=True)
class Lapsed:
    """A slice whose lease had run out, as it was.

    Attributes:
        times: so often, this time included, since something was committed; 0: it is held still.
    """

    run: str
    number: int
    epoch: int
    holder: str
    times: int = 0


# By event_by_run. Asked for a slice that has just been freed, so seldom.
_TIMES = """
SELECT count(*) FROM {s}.slice AS s JOIN {s}.event AS e ON e.run = s.run
 WHERE s.run = %(run)s AND s.number = %(number)s
   AND e.name = %(name)s AND e.detail ->> 'slice' = s.number::text
   AND e.at > greatest(s.progress_at, s.not_before)
"""


def free_lapsed(
    conn: Connection, ledger: Ledger, run: str | None = None, *, by: str = "its lease ran out"
) -> tuple[list[Lapsed], list[Lapsed]]:
    """Free slices whose lease has run out, of one run or of all, and say so in the events (I7).

    What is held has a slot: the partial index of slots finds it.

    Returns:
        Those that were freed, and those that a batch still holds open (their rows were skipped).
    """
    params = {"run": run}
    with conn.cursor(row_factory=dict_row) as cursor:
        freed = cursor.execute(
            ledger.q(
                "WITH lapsed AS (SELECT run, number, epoch, holder FROM {s}.slice"
                " WHERE slot IS NOT NULL AND lease_until < clock_timestamp()"
                " AND (%(run)s::text IS NULL OR run = %(run)s) FOR NO KEY UPDATE SKIP LOCKED)"
                " UPDATE {s}.slice AS s SET epoch = s.epoch + 1, holder = NULL, slot = NULL,"
                " lease_until = NULL FROM lapsed"
                " WHERE s.run = lapsed.run AND s.number = lapsed.number"
                " RETURNING lapsed.run, lapsed.number, lapsed.epoch, lapsed.holder"
            ),
            params,
        ).fetchall()
        stuck = cursor.execute(
            ledger.q(
                "SELECT run, number, epoch, holder FROM {s}.slice"
                " WHERE slot IS NOT NULL AND lease_until < clock_timestamp()"
                " AND (%(run)s::text IS NULL OR run = %(run)s)"
            ),
            params,
        ).fetchall()
    for row in freed:
        add_event(
            conn,
            ledger,
            Event.SLICE_FREED,
            run=row["run"],
            caused_by=by,
            slice=row["number"],
            holder=row["holder"],
            epoch=row["epoch"],
        )
    return [
        Lapsed(**row, times=_times(conn, ledger, row["run"], row["number"])) for row in freed
    ], [Lapsed(**row) for row in stuck]


def _times(conn: Connection, ledger: Ledger, run: str, number: int) -> int:
    row = conn.execute(
        ledger.q(_TIMES), {"run": run, "number": number, "name": str(Event.SLICE_FREED)}
    ).fetchone()
    return row[0] if row else 0


def terminate_backends(conn: Connection, names: Sequence[str], *, busy_seconds: float) -> list[int]:
    """End the transactions of holders whose lease has run out; returns their process ids.

    Only backends that wait for their client (stopped, or unreachable) or have been at it for longer
    than any statement may take: one that is just slow keeps its slice by its row lock.
    """
    # chosen first, ended then: of conditions side by side the planner tries the cheapest first,
    # and that would be pg_terminate_backend, for everybody
    return [
        row[0]
        for row in conn.execute(
            "WITH hung AS MATERIALIZED (SELECT pid FROM pg_stat_activity"
            " WHERE application_name = ANY(%s)"
            " AND datname = current_database() AND pid <> pg_backend_pid()"
            " AND (state LIKE 'idle in transaction%%' OR wait_event_type = 'Client'"
            " OR xact_start < clock_timestamp() - make_interval(secs => %s)))"
            " SELECT pid FROM hung WHERE pg_terminate_backend(pid)",
            [list(names), busy_seconds],
        )
    ]
