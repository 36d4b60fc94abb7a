"""Says that a batch is on the primary alone, because somebody ended its wait for a standby (I7).

A COMMIT waits for a synchronous standby for as long as that takes: no time-out of PostgreSQL bounds
it, and taking it back is not to be had. `pg_cancel_backend` ends the wait; the commit holds here.
"""

from __future__ import annotations

from backfill.engine.bench import Bench
from backfill.events import Event
from backfill.pg.connect import transaction
from backfill.pg.ledger import add_event

#: Whoever cancels one wait cancels many.
TOLD_EVERY_SECONDS = 60.0


def tell_if_unconfirmed(bench: Bench, seconds: float) -> None:
    """Record it where a batch of this process was not confirmed, unless that was just told.

    The event does not wait for the standby, which it tells of.

    Args:
        seconds: how long the batch took.
    """
    if not bench.is_unconfirmed:
        return
    bench.is_unconfirmed = False
    now = bench.clock.monotonic()
    if now - bench.told_unconfirmed_at < TOLD_EVERY_SECONDS:
        return
    with transaction(bench.conn, run=bench.run.id):
        bench.conn.execute("SET LOCAL synchronous_commit = local")
        add_event(
            bench.conn,
            bench.ledger,
            Event.COMMIT_UNCONFIRMED,
            run=bench.run.id,
            caused_by=bench.holder,
            seconds=round(seconds, 1),
        )
    bench.told_unconfirmed_at = now
