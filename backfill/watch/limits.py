"""What limits a run, in words for people and by kind for programs: the first of these that holds.

A pause, each with its reason (the hours outside its window are one); a commit that waits for a
standby; no worker, or no process; older transactions; signals that slow it down; its rate, its
duty, and the database's `max_slots`; else the database itself. A rate that is not reached limits
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from backfill.engine.judge import told
from backfill.job import Options
from backfill.model import PauseCause, RunState, SignalState
from backfill.pg.ledger import Pause, Run
from backfill.pg.samples import Sample
from backfill.rate import Rate

#: Below this share of it a rate is not reached, so that something else limits the run.
REACHED_SHARE = 0.8
#: Slower ones come in single rows, between which the rows/s of late say nothing.
LEAST_ROWS_PER_SECOND = 1.0
#: A commit that has waited so long for a synchronous standby waits for one that hangs or is away.
UNCONFIRMED_SECONDS = 1.0


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


class Limiting(StrEnum):
    """The kinds of limits: a pause by its cause, then what limits a run that works."""

    USER = PauseCause.USER.value
    WINDOW = PauseCause.WINDOW.value
    SIGNAL = PauseCause.SIGNAL.value
    QUARANTINE = PauseCause.QUARANTINE.value
    ERROR = PauseCause.ERROR.value
    CHANGED_JOB = PauseCause.CHANGED_JOB.value
    STOP_ALL = PauseCause.STOP_ALL.value
    STANDBY = "standby"
    NO_WORKER = "no worker"
    NO_PROCESS = "no process"
    OLDER_TRANSACTIONS = "older transactions"
    RATE = "rate"
    DUTY = "duty"
    MAX_SLOTS = "max_slots"
    DATABASE = "database"


@dataclass(frozen=True, slots=True)
class Limit:
    """Something that limits a run now.

    Attributes:
        told: in words.
    """

    kind: Limiting
    told: str


def limits(
    run: Run,
    *,
    pauses: Sequence[Pause],
    workers: int,
    signals: Sequence[Sample],
    slots: Slots | None = None,
    rows_per_second: float | None = None,
    unconfirmed_seconds: float = 0.0,
    is_abandoned: bool = False,
) -> list[Limit]:
    """What limits it now: several where they stand side by side, none for a run that has ended.

    Args:
        workers: how many were seen lately.
        signals: the last samples.
        slots: None: the database has no limit on them.
        rows_per_second: of late; None: not known.
        unconfirmed_seconds: for so long a commit has waited for synchronous standbys.
        is_abandoned: it is a process's own, which is gone.
    """
    if not run.run_state.is_live:
        return []
    if pauses:
        return [Limit(Limiting(one.cause), f"{one.cause}: {one.reason}") for one in pauses]
    if unconfirmed_seconds > UNCONFIRMED_SECONDS:
        # before the workers: what they say of themselves is such a commit, too
        told = f"a commit that has waited {unconfirmed_seconds:,.0f} s for a synchronous standby"
        return [Limit(Limiting.STANDBY, told)]
    if run.executor == "celery" and not workers:
        told = "no worker is running: start one with `backfill worker`"
        return [Limit(Limiting.NO_WORKER, told)]
    if is_abandoned:
        here, elsewhere = f"`backfill run {run.job}`", f"`backfill resume {run.id}`"
        told = f"its process is gone: {here} goes on here, {elsewhere} on workers"
        return [Limit(Limiting.NO_PROCESS, told)]
    if run.run_state is RunState.QUEUED and run.barrier:
        told = "older transactions that still write to the source"
        return [Limit(Limiting.OLDER_TRANSACTIONS, told)]
    if run.speed < 1:
        return [Limit(Limiting.SIGNAL, slowed_by(run, signals))]
    return _at_full_speed(Options.from_json(run.options), slots, rows_per_second)


def in_words(found: Sequence[Limit]) -> str:
    """All of them in one line; empty where there are none."""
    are_pauses = bool(found) and str(found[0].kind) in {str(cause) for cause in PauseCause}
    return ("; " if are_pauses else " and ").join(limit.told for limit in found)


def _at_full_speed(
    options: Options, slots: Slots | None, rows_per_second: float | None
) -> list[Limit]:
    is_reached = _is_reached(options, rows_per_second)
    found = []
    if options.rate and is_reached:
        found.append(Limit(Limiting.RATE, f"its rate of {options.rate}"))
    if options.duty < 1:
        duty = f"its duty of {options.duty:.0%}".replace("%", " %")
        found.append(Limit(Limiting.DUTY, duty))
    if slots is not None:
        found += [Limit(Limiting.MAX_SLOTS, one) for one in _short_of_slots(options, slots)]
    if not found:
        own = "1 slot" if options.concurrency == 1 else f"{options.concurrency} slots"
        itself = f"the database itself, on {own} (concurrency)"
        found.append(Limit(Limiting.DATABASE, itself))
    if not is_reached:
        told = f"{found[-1].told}; its rate of {options.rate} is not reached"
        found[-1] = replace(found[-1], told=told)
    return found


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
