"""When a slot's next batch may begin, and with how many rows: others first, then the pace.

No transaction is open here, and the slice's lease is renewed while the slot waits (I3, I5).
"""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import structlog

from backfill.engine.bench import Bench
from backfill.engine.pace import Wait
from backfill.engine.pausing import pause_for_window
from backfill.events import Event
from backfill.hours import Shut
from backfill.pg import slices
from backfill.pg.blocking import somebody_waits_for_us
from backfill.pg.slices import Slice

log = structlog.get_logger("backfill")

#: A held slice's lease is renewed at least so often while the slot waits, as a share of the lease.
HEARTBEAT_SHARE = 1 / 3
#: The longest sleep between two looks at what might end the wait.
NAP_SECONDS = 0.25
#: Whether others wait for us is asked at most so often: a batch of the usual length meets it once.
LOOK_SECONDS = 0.02
#: How long others are let go first, and how often is looked whether they have gone. Who waits
#: longer waits for somebody else, too.
YIELD_SECONDS = 2.0
YIELD_NAP_SECONDS = 0.01


def next_turn(bench: Bench, held: Slice, is_over: Callable[[], bool]) -> int | None:
    """Wait until the next batch may begin; rows that it may take.

    None: the time is over, the window has closed, or the slice is lost.
    """
    if not _let_others_go(bench, held, is_over):
        return None
    while True:
        step = bench.pace.before_batch(bench.halving.limit(bench.sizer.rows))
        if isinstance(step, Wait):
            if not _nap(bench, held, step.seconds, is_over):
                return None
        elif isinstance(step, Shut):
            pause_for_window(bench, step)
            return None
        else:
            return step.rows


def _let_others_go(bench: Bench, held: Slice, is_over: Callable[[], bool]) -> bool:
    """Begin nothing while another session waits for a batch of ours; False: see `_nap`."""
    began = bench.clock.monotonic()
    if began - bench.control.others_at < LOOK_SECONDS:
        return True
    waited = 0.0
    try:
        while waited < YIELD_SECONDS and somebody_waits_for_us(bench.conn):
            if not _nap(bench, held, YIELD_NAP_SECONDS, is_over):
                return False
            waited = bench.clock.monotonic() - began
    except psycopg.OperationalError:
        return True  # the batch finds the lost connection, and opens another
    bench.control.others_at = bench.clock.monotonic()
    if waited:
        log.info(Event.BATCH_YIELDED, run=held.run, slice=held.number, seconds=round(waited, 3))
    return True


def _nap(bench: Bench, held: Slice, seconds: float, is_over: Callable[[], bool]) -> bool:
    """Sleep a little, renewing the lease; False when the time is over or the slice is lost."""
    if is_over():
        return False
    lease_seconds = bench.settings.lease_seconds
    beat = lease_seconds * HEARTBEAT_SHARE
    nap = min(seconds, beat, NAP_SECONDS)
    bench.clock.sleep(nap)
    bench.since_heartbeat += nap
    if bench.since_heartbeat < beat:
        return True
    bench.since_heartbeat = 0.0
    return slices.heartbeat(bench.conn, bench.ledger, held, lease_seconds=lease_seconds)
