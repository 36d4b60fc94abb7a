"""The end of a run: `after_run` is called before the state says `succeeded`.

So a process that dies between the two leaves the call to another. One caller at a time, until the
state has followed: see hooks.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from backfill.engine.bench import Bench, run_info
from backfill.engine.hooks import calling
from backfill.model import RunState
from backfill.pg.hooks import Hook
from backfill.pg.ledger import get_run, totals
from backfill.pg.quarantine import open_quarantine


@contextmanager
def after_run_called(bench: Bench, state: RunState) -> Iterator[bool]:
    """Call `after_run` at the run's end; within, nobody else does.

    False when the run has not come to its end yet, or another calls the hook.

    Raises:
        StopError: it raised something.
    """
    if state is not RunState.VERIFYING:
        yield False
        return
    total = totals(bench.conn, bench.ledger, bench.run.id)
    if total.by_phase["done"] < sum(total.by_phase.values()) or open_quarantine(
        bench.conn, bench.ledger, bench.run.id
    ):
        yield False
        return
    with calling(bench, Hook.AFTER_RUN) as caller:
        # another may have called it, and ended the run, between the look and the lease
        now = get_run(bench.conn, bench.ledger, bench.run.id).run_state
        if caller is None or now is not RunState.VERIFYING:
            yield False
            return
        info = run_info(bench.run, counts=total.counts)
        caller.call(lambda: bench.job.after_run(info))
        yield caller.is_ours()
