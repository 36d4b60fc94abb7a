"""What limits a run, in words: the first of these that holds.

A pause, each with its reason (the hours outside its window are one); no worker; older transactions;
signals that slow it down; its rate; its duty; else the database itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from backfill.engine.judge import told
from backfill.job import Options
from backfill.model import RunState, SignalState
from backfill.pg.ledger import Pause, Run
from backfill.pg.samples import Sample


def limited_by(
    run: Run, *, pauses: Sequence[Pause], workers: int, signals: Sequence[Sample]
) -> str:
    """What limits it now; empty for a run that has ended.

    Args:
        workers: how many were seen lately.
        signals: the last samples.
    """
    if not run.run_state.is_live:
        return ""
    if pauses:
        return "; ".join(f"{pause.cause}: {pause.reason}" for pause in pauses)
    if run.executor == "celery" and not workers:
        return "no worker is running: start one with `backfill worker`"
    if run.run_state is RunState.QUEUED and run.barrier:
        return "older transactions that still write to the source"
    if run.speed < 1:
        return slowed_by(run, signals)
    options = Options.from_json(run.options)
    of_its_own = [
        *([] if options.rate is None else [f"its rate of {options.rate}"]),
        *([] if options.duty >= 1 else [f"its duty of {options.duty:.0%}".replace("%", " %")]),
    ]
    slots = "1 slot" if options.concurrency == 1 else f"{options.concurrency} slots"
    return " and ".join(of_its_own) or f"the database itself, on {slots} (concurrency)"


def slowed_by(run: Run, signals: Sequence[Sample]) -> str:
    """`signal lag = 12 s (slows from 10 s, stops at 30 s): 25 % of full speed`."""
    slow = [sample for sample in signals if sample.state is SignalState.SLOW]
    why = "; ".join(f"signal {told(sample)}" for sample in slow)
    speed = f"{run.speed * 100:.0f} % of full speed"
    return f"{why}: {speed}" if why else f"signals, all well again: {speed}, rising"
