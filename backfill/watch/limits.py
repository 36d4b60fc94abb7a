"""What limits a run, in words: the first of these that holds.

A pause, each with its reason (the hours outside its window are one); no worker; older transactions;
signals that slow it down; its rate, its duty, and the database's `max_slots`; else the database
itself. A rate that is not reached limits nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backfill.engine.judge import told
from backfill.job import Options
from backfill.model import RunState, SignalState
from backfill.pg.ledger import Pause, Run
from backfill.pg.samples import Sample
from backfill.rate import Rate

#: Below this share of it a rate is not reached, so that something else limits the run.
REACHED_SHARE = 0.8
#: Slower ones come in single rows, between which the rows/s of late say nothing.
LEAST_ROWS_PER_SECOND = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """The slots of a run in a database that has a limit on them.

    Attributes:
        most: slices of all runs that may be held at once.
        of_all: those that are held.
        held: the run's own among them.
        is_more_to_do: it has slices that nobody holds, or may place some.
    """

    most: int
    of_all: int
    held: int
    is_more_to_do: bool


def limited_by(
    run: Run,
    *,
    pauses: Sequence[Pause],
    workers: int,
    signals: Sequence[Sample],
    slots: Slots | None = None,
    rows_per_second: float | None = None,
) -> str:
    """What limits it now; empty for a run that has ended.

    Args:
        workers: how many were seen lately.
        signals: the last samples.
        slots: None: the database has no limit on them.
        rows_per_second: of late; None: not known.
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
    is_reached = _is_reached(options, rows_per_second)
    limits = [
        *([f"its rate of {options.rate}"] if options.rate and is_reached else []),
        *([] if options.duty >= 1 else [f"its duty of {options.duty:.0%}".replace("%", " %")]),
        *([] if slots is None else _short_of_slots(options, slots)),
    ]
    own = "1 slot" if options.concurrency == 1 else f"{options.concurrency} slots"
    told_limits = " and ".join(limits) or f"the database itself, on {own} (concurrency)"
    return (
        told_limits if is_reached else f"{told_limits}; its rate of {options.rate} is not reached"
    )


def _is_reached(options: Options, rows_per_second: float | None) -> bool:
    """False only when it is known that it goes slower than its rate."""
    if options.rate is None or rows_per_second is None:
        return True
    rate = Rate.parse(options.rate).rows_per_second
    return rate < LEAST_ROWS_PER_SECOND or rows_per_second >= REACHED_SHARE * rate


def _short_of_slots(options: Options, slots: Slots) -> list[str]:
    """`max_slots of 8, which other runs fill: it holds 2 of 4 slots`."""
    is_full = slots.of_all >= slots.most
    if not (is_full and slots.is_more_to_do and slots.held < options.concurrency):
        return []
    others = ", which other runs fill" if slots.of_all > slots.held else ""
    return [
        f"max_slots of {slots.most}{others}: it holds {slots.held} of {options.concurrency} slots"
    ]


def slowed_by(run: Run, signals: Sequence[Sample]) -> str:
    """`signal lag = 12 s (slows from 10 s, stops at 30 s): 25 % of full speed`."""
    slow = [sample for sample in signals if sample.state is SignalState.SLOW]
    why = "; ".join(f"signal {told(sample)}" for sample in slow)
    speed = f"{run.speed * 100:.0f} % of full speed"
    return f"{why}: {speed}" if why else f"signals, all well again: {speed}, rising"
