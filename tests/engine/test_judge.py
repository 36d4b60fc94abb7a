"""What signals mean for a run: hysteresis, fail closed, steps down and up (no database here)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.engine.judge import FLOOR, STEP, Verdict, amount, judge, judge_signal, told
from backfill.model import SignalState
from backfill.pg.samples import Sample
from backfill.signals import BUILTIN, Reading, SignalSpec

LAG = SignalSpec(name="lag", unit="s", stop=30, resume=10)
IDLE = SignalSpec(name="idle_cpu", unit="%", stop=5, resume=20, worse="below")
#: More samples than the way from the floor to full speed takes.
LONG_ENOUGH = round((1 - FLOOR) / STEP) + 2


def states(spec: SignalSpec, values: Iterable[float | None]) -> list[str]:
    """The states through which these values lead; None: it cannot be read."""
    last: Sample | None = None
    found = []
    for value in values:
        reading = Reading(name=spec.name, value=value, problem="" if value is not None else "away")
        last = judge_signal(spec, reading, last)
        found.append(str(last.state))
    return found


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([9.9, 10, 29.9, 30, 31], ["ok", "slow", "slow", "stop", "stop"]),
        ([30, 29, 10, 9.9, 29], ["stop", "stop", "stop", "ok", "slow"]),
        ([5, None, 5], ["ok", "unreadable", "ok"]),
        ([15, None, 15], ["slow", "unreadable", "slow"]),
        ([30, None, 15, 9], ["stop", "unreadable", "stop", "ok"]),
        ([None, None, 5, None], ["off", "off", "ok", "unreadable"]),
        ([float("inf"), float("nan")], ["stop", "unreadable"]),
    ],
    ids=["up", "down", "blip", "blip while slow", "blip while stopped", "late", "no numbers"],
)
def test_a_signal_has_hysteresis_and_fails_closed(
    values: Sequence[float | None], expected: list[str]
) -> None:
    assert states(LAG, values) == expected


def test_one_that_gets_worse_downward_is_the_mirror_image() -> None:
    assert states(IDLE, [21, 20, 6, 5, 6, 20, 20.1]) == [
        *("ok", "slow", "slow", "stop", "stop", "stop", "ok")
    ]


def test_where_the_thresholds_are_one_there_is_nothing_between() -> None:
    spec = replace(LAG, stop=1, resume=1)
    assert states(spec, [0, 1, 0.5]) == ["ok", "stop", "ok"]
    assert (
        told(judge_signal(spec, Reading(name="lag", value=0), None)) == "lag = 0 s (stops at 1 s)"
    )


def test_one_that_was_asked_for_stops_from_the_first_sample_on() -> None:
    assert states(replace(LAG, required=True), [None, 5]) == ["unreadable", "ok"]


def test_one_of_which_the_reader_says_nothing_is_not_readable() -> None:
    assert judge_signal(LAG, None, None).state is SignalState.OFF
    readable = judge_signal(LAG, Reading(name="lag", value=1), None)
    vanished = judge_signal(LAG, None, readable)
    assert vanished.state is SignalState.UNREADABLE
    assert told(vanished) == "lag cannot be read: nothing was measured"


def judged(
    readings: Sequence[Reading],
    *,
    speed: float = 1.0,
    was_stopped: bool = False,
    specs: Sequence[SignalSpec] = (LAG, IDLE),
    before: Sequence[Sample] = (),
) -> Verdict:
    return judge(
        {spec.name: spec for spec in specs},
        readings,
        before,
        speed=speed,
        was_stopped=was_stopped,
    )


def test_the_strictest_wins_and_all_are_named() -> None:
    verdict = judged([Reading(name="lag", value=42, detail="b"), Reading(name="idle_cpu", value=8)])
    assert verdict.stops == ("lag = 42 s (b; stops at 30 s, goes on below 10 s)",)
    assert verdict.slows == ("idle_cpu = 8 % (slows from 20 %, stops at 5 %)",)
    assert verdict.reasons == verdict.stops + verdict.slows
    assert verdict.ends == "by itself when lag is below 10 s"
    both = judged([Reading(name="lag", value=42), Reading(name="idle_cpu", value=2)])
    assert both.ends == "by itself when lag is below 10 s and idle_cpu is above 20 %"


def test_what_ends_a_stop_is_said_alike_as_long_as_the_same_signals_stop() -> None:
    """The sampler compares these words to see that another one has joined."""
    first = judged([Reading(name="lag", value=42), Reading(name="idle_cpu", value=50)])
    later = judged([Reading(name="lag", value=55), Reading(name="idle_cpu", value=9)])
    assert first.ends == later.ends


def test_speed_goes_down_by_halves_to_the_floor_and_up_by_steps_to_the_full() -> None:
    bad = [Reading(name="lag", value=15), Reading(name="idle_cpu", value=50)]
    good = [Reading(name="lag", value=1), Reading(name="idle_cpu", value=50)]
    speeds = [1.0]
    for _ in range(6):
        speeds.append(judged(bad, speed=speeds[-1]).speed)
    assert speeds == [1, 0.5, 0.25, 0.125, 0.0625, FLOOR, FLOOR]
    climbing = [FLOOR]
    while climbing[-1] < 1 and len(climbing) < 100:
        climbing.append(judged(good, speed=climbing[-1]).speed)
    assert climbing[1:3] == [FLOOR + STEP, pytest.approx(FLOOR + 2 * STEP)]
    assert len(climbing) - 1 == 19, "as STEP says"


def test_a_run_that_comes_back_from_a_stop_begins_at_the_floor() -> None:
    good = [Reading(name="lag", value=1), Reading(name="idle_cpu", value=50)]
    back = judged(good, speed=0.8, was_stopped=True)
    assert (back.stops, back.speed) == ((), FLOOR)
    assert judged(good, speed=back.speed).speed == FLOOR + STEP


def test_signals_that_are_off_hold_nothing_up() -> None:
    assert judged([], speed=0.5).speed == 0.5 + STEP


def test_without_signals_all_is_well() -> None:
    assert judged([], specs=[], was_stopped=True) == Verdict(
        samples=(), speed=FLOOR, stops=(), slows=(), ends=""
    )


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (42, "s", "42 s"),
        (0.25, "s", "0.25 s"),
        (1234.5, "", "1,234"),
        (60, "%", "60 %"),
        (64 * 1024**2, "B/s", "64 MB/s"),
        (1536, "B", "1.5 kB"),
        (0, "B", "0 B"),
        (10, "times", "10 times"),
        (float("inf"), "s", "inf s"),
    ],
)
def test_values_are_written_for_people(value: float, unit: str, expected: str) -> None:
    assert amount(value, unit) == expected


@st.composite
def specs(draw: st.DrawFn) -> SignalSpec:
    low, high = sorted((draw(st.integers(0, 20)), draw(st.integers(0, 20))))
    above = draw(st.booleans())
    return SignalSpec(
        name=draw(st.sampled_from("abc")),
        unit="s",
        stop=high if above else low,
        resume=low if above else high,
        worse="above" if above else "below",
        required=draw(st.booleans()),
    )


def readings(names: Sequence[str]) -> st.SearchStrategy[list[Reading]]:
    """Any of them, at any value, or not readable, or not there at all."""
    one = [
        st.one_of(
            st.none(),
            st.builds(Reading, name=st.just(name), value=st.floats(-5, 25)),
            st.just(Reading(name=name, value=None, problem="away")),
        )
        for name in names
    ]
    return st.tuples(*one).map(lambda found: [reading for reading in found if reading is not None])


@given(st.data())
def test_whatever_is_sampled_it_never_stops_without_a_reason_nor_for_ever(
    data: st.DataObject,
) -> None:
    """Of any sequence: a stop names who stops; speed keeps its bounds; all well ends everything."""
    chosen = data.draw(st.lists(specs(), max_size=3, unique_by=lambda spec: spec.name))
    by_name = {spec.name: spec for spec in chosen}
    samples: Sequence[Sample] = ()
    speed, stopped = 1.0, False
    seen: set[str] = set()
    worst: dict[str, bool] = {}  # has been at stop, and not beyond resume since
    for found in data.draw(st.lists(readings(list(by_name)), max_size=12)):
        verdict = judge(by_name, found, samples, speed=speed, was_stopped=stopped)
        values = {r.name: r.value for r in found if r.value is not None}
        for spec in chosen:
            value = values.get(spec.name)
            if value is not None:
                sign = 1 if spec.worse == "above" else -1
                at_stop = sign * value >= sign * spec.stop
                is_well = sign * value < sign * spec.resume
                worst[spec.name] = at_stop or (worst.get(spec.name, False) and not is_well)
        seen |= set(values)
        must_stop = {
            spec.name
            for spec in chosen
            if (spec.name in values and worst[spec.name])
            or (spec.name not in values and (spec.required or spec.name in seen))
        }
        assert {s.name for s in verdict.samples if s.state.stops} == must_stop
        assert len(verdict.stops) == len(must_stop)
        assert all(any(text.startswith(f"{n} ") for text in verdict.stops) for n in must_stop)
        assert all(f"{name} " in verdict.ends for name in must_stop)
        assert bool(verdict.ends) == bool(must_stop)
        assert FLOOR <= verdict.speed <= min(1.0, speed + STEP + 1e-9)
        if must_stop or stopped:
            assert verdict.speed == FLOOR
        elif verdict.slows:
            assert verdict.speed <= max(FLOOR, speed / 2)
        samples, speed, stopped = verdict.samples, verdict.speed, bool(must_stop)
    fine = [
        Reading(name=spec.name, value=spec.resume + (-1 if spec.worse == "above" else 1))
        for spec in chosen
    ]
    for _ in range(LONG_ENOUGH):
        verdict = judge(by_name, fine, samples, speed=speed, was_stopped=stopped)
        assert not verdict.stops
        samples, speed, stopped = verdict.samples, verdict.speed, False
    assert speed == 1.0
    assert verdict.reasons == ()


def test_every_signal_that_is_shipped_can_be_well() -> None:
    for spec in BUILTIN.values():
        sign = 1 if spec.worse == "above" else -1
        assert states(spec, [spec.stop, spec.resume - sign]) == ["stop", "ok"], spec.name
