"""What a worker obeys while it works: options, speed, pauses, as somebody changes them.

The ledger is asked at most every half second, between batches, outside any transaction (I5). What
may change (docs/how-to/tune.md) takes effect from the next batch on; a slot that the run no longer
has ends after the batch in hand.
"""

from __future__ import annotations

import psycopg

from backfill.engine.bench import Bench
from backfill.engine.faults import StopError
from backfill.engine.pausing import pause_for_silence
from backfill.engine.report import Ended
from backfill.errors import BackfillError
from backfill.model import RunState
from backfill.pg.control import Control, read_control

#: Tuning is to be obeyed within two seconds.
POLL_SECONDS = 0.5


def obey(bench: Bench, *, slot: int) -> Ended | None:
    """Take over what was changed; why the slot has to end, or None.

    A database that does not answer is nothing to end for here: the next batch finds it, and
    connects again.

    Raises:
        StopError: a newer version wrote options that this one does not know.
    """
    now = bench.clock.monotonic()
    if now - bench.control.at >= POLL_SECONDS:
        if now - bench.control.at > bench.settings.signals_stale_seconds:
            bench.control.since = now  # it begins, or begins again
        bench.control.at = now
        try:
            control = read_control(bench.conn, bench.ledger, bench.run.id)
        except psycopg.OperationalError:
            return None
        if control is None:
            return Ended.NOT_WORKING
        _take_over(bench, control)
        if control.run_state is RunState.PAUSED or not control.run_state.is_live:
            return Ended.NOT_WORKING
        if control.run_state.is_working and _is_silent(bench, control, now):
            pause_for_silence(bench, control.sample_age_seconds)
            return Ended.NOT_WORKING
    return Ended.SLOT_CLOSED if slot >= bench.options.concurrency else None


def _take_over(bench: Bench, control: Control) -> None:
    try:
        bench.tune(control.options, speed=control.speed)
    except BackfillError as error:
        raise StopError(
            f"its options were changed: {error.message}", summary="unknown options"
        ) from error


def _is_silent(bench: Bench, control: Control, now: float) -> bool:
    """Nobody measures the signals any more, or has begun to, though the run obeys some.

    The sampler starts together with the workers, so it has the same time for its first sample as
    between two of them: a process that has just come does not judge yet.
    """
    stale_seconds = bench.settings.signals_stale_seconds
    if now - bench.control.since < stale_seconds:
        return False
    if control.sample_age_seconds is None:
        return bench.asks_for_signals
    return control.sample_age_seconds > stale_seconds
