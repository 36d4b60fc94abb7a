"""What a run's signals mean for it: pure functions over thresholds, readings and the last samples.

1. Hysteresis: a signal stops the run from `stop` on, and until it is beyond `resume` again, also
   when it cannot be read in between.
2. Fail closed: a signal that somebody asked for, or that could be read before in this run, stops
   the run when it cannot be read. One that never could be read, and nobody asked for, is off.
3. The strictest wins: one signal that stops is enough, one that slows is enough to slow; all are
   named.
4. Speed comes back slowly: it goes down by halves, up by small steps, and after a stop begins at
   the floor (AIMD: additive increase, multiplicative decrease, as TCP does it).

All that is remembered between two samples stands in the ledger, so any sampler goes on from where
another one was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from backfill.model import SignalState
from backfill.pg.samples import Sample
from backfill.signals import Reading, SignalSpec

#: A run that signals slow down goes on at this share of its full speed at least: what has to be
#: less is for `stop` to say.
FLOOR = 0.05
#: Each sample without a complaint lets it up by this share: from the floor to full speed in 19.
STEP = 0.05

_UNREAD = "nothing was measured"
#: As PostgreSQL writes sizes: powers of 1024.
_SIZES = ("", "k", "M", "G", "T", "P")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What follows from a run's samples.

    Attributes:
        samples: to be written, in the order of the settings.
        speed: the share of its full speed at which it may work from now on; 0 < speed ≤ 1.
        stops: the signals that stop it, in words; empty: it may work.
        slows: those that slow it down.
        ends: what will end the stop, in words; the same as long as the same signals stop it.
    """

    samples: tuple[Sample, ...]
    speed: float
    stops: tuple[str, ...]
    slows: tuple[str, ...]
    ends: str

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it does not go at full speed."""
        return self.stops + self.slows


def judge(
    specs: Mapping[str, SignalSpec],
    readings: Iterable[Reading],
    before: Iterable[Sample],
    *,
    speed: float,
    was_stopped: bool,
) -> Verdict:
    """Judge one run.

    Args:
        before: its last samples.
        speed: its speed until now.
        was_stopped: it is paused for its signals.
    """
    read = {reading.name: reading for reading in readings}
    last = {sample.name: sample for sample in before}
    samples = tuple(
        judge_signal(spec, read.get(name), last.get(name)) for name, spec in specs.items()
    )
    stopping = [sample for sample in samples if sample.state.stops]
    slowing = [sample for sample in samples if sample.state is SignalState.SLOW]
    if stopping or was_stopped:
        speed = FLOOR
    elif slowing:
        speed = max(FLOOR, speed / 2)
    else:
        speed = min(1.0, round(speed + STEP, 4))
    return Verdict(
        samples=samples,
        speed=speed,
        stops=tuple(map(told, stopping)),
        slows=tuple(map(told, slowing)),
        ends=f"by itself when {' and '.join(map(_ended, stopping))}" if stopping else "",
    )


def judge_signal(spec: SignalSpec, reading: Reading | None, last: Sample | None) -> Sample:
    """Judge one signal.

    Args:
        reading: None: the reader said nothing of it.
        last: its last sample in this run; None: this is the first.
    """
    value = None if reading is None else reading.value
    if reading is None or value is None or math.isnan(value):
        message = _UNREAD if reading is None else reading.problem or _UNREAD
        was_readable = last is not None and last.state is not SignalState.OFF
        state = SignalState.UNREADABLE if spec.required or was_readable else SignalState.OFF
        return _sample(spec, None, state, message, held=last is not None and last.held)
    sign = 1 if spec.worse == "above" else -1
    is_well = sign * value < sign * spec.resume
    is_held = sign * value >= sign * spec.stop or (last is not None and last.held and not is_well)
    state = SignalState.STOP if is_held else SignalState.OK if is_well else SignalState.SLOW
    return _sample(spec, value, state, reading.detail, held=is_held)


def _sample(
    spec: SignalSpec, value: float | None, state: SignalState, message: str, *, held: bool
) -> Sample:
    return Sample(
        name=spec.name,
        value=None if value is None else float(value),
        unit=spec.unit,
        stop=float(spec.stop),
        resume=float(spec.resume),
        worse=spec.worse,
        state=state,
        message=message,
        held=held,
    )


def told(sample: Sample) -> str:
    """`replication_lag_seconds = 42 s (stops at 30 s, goes on below 10 s)`."""
    if sample.value is None:
        return f"{sample.name} cannot be read: {sample.message}"
    detail = f"{sample.message}; " if sample.message else ""
    return f"{sample.name} = {amount(sample.value, sample.unit)} ({detail}{thresholds(sample)})"


def thresholds(sample: Sample) -> str:
    """`stops at 30 s, goes on below 10 s`, or `slows from 10 s, stops at 30 s`."""
    stop, resume = (amount(value, sample.unit) for value in (sample.stop, sample.resume))
    if sample.state.stops:
        return f"stops at {stop}, goes on {_well_side(sample)} {resume}"
    return f"stops at {stop}" if stop == resume else f"slows from {resume}, stops at {stop}"


def _well_side(sample: Sample) -> str:
    """On which side of `resume` all is well."""
    return "below" if sample.worse == "above" else "above"


def _ended(sample: Sample) -> str:
    if sample.value is None and not sample.held:
        return f"{sample.name} can be read"
    return f"{sample.name} is {_well_side(sample)} {amount(sample.resume, sample.unit)}"


def amount(value: float, unit: str) -> str:
    """`42 s`, `0.25 s`, `60 %`, `512 MB/s`, `1,800`: a value with its unit, for people."""
    if unit in {"B", "B/s"}:
        power = 0
        while abs(value) >= 1024 and power < len(_SIZES) - 1:
            value, power = value / 1024, power + 1
        unit = _SIZES[power] + unit
    is_round = abs(value) >= 100 or value == round(value)
    number = f"{value:,.0f}" if is_round and math.isfinite(value) else f"{value:.3g}"
    return f"{number} {unit}".rstrip()
