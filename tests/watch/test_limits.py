"""What a run says of what limits it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from backfill.engine.judge import judge_signal
from backfill.job import Options
from backfill.model import PauseCause
from backfill.pg.ledger import Pause, Run
from backfill.pg.samples import Sample
from backfill.signals import Reading, SignalSpec
from backfill.watch.limits import Limiting, Slots, in_words, limits

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def run(*, options: Options | None = None, state: str = "running", **other: Any) -> Run:
    values: Mapping[str, Any] = {
        "id": "count-1",
        "job": "count",
        "job_version": 1,
        "fingerprint": "",
        "declaration": {},
        "params": {},
        "options": (options or Options()).to_json(),
        "executor": "celery",
        "requested_by": "ada",
        "source": {},
        "state": state,
        "horizon": None,
        "barrier": None,
        "barrier_until": None,
        "began": True,
        "frontier": None,
        "frontier_done": False,
        "slices": 0,
        "passes": 0,
        "total_rows": None,
        "total_is_exact": False,
        "failure": None,
        "created_at": NOW,
        "started_at": NOW,
        "finished_at": None,
        **other,
    }
    return Run(**values)


def paused(cause: str, reason: str) -> Pause:
    return Pause(run="count-1", cause=cause, reason=reason, ends="soon", caused_by="ada", since=NOW)


def sampled(value: float, name: str = "lag") -> Sample:
    spec = SignalSpec(name=name, unit="s", stop=30, resume=10)
    return judge_signal(spec, Reading(name=name, value=value), None)


def told(
    of: Run,
    *,
    pauses: Sequence[Pause] = (),
    workers: int = 1,
    signals: Sequence[Sample] = (),
    slots: Slots | None = None,
    rows_per_second: float | None = None,
    unconfirmed_seconds: float = 0.0,
    is_abandoned: bool = False,
) -> str:
    return in_words(
        limits(
            of,
            pauses=pauses,
            workers=workers,
            signals=signals,
            slots=slots,
            rows_per_second=rows_per_second,
            unconfirmed_seconds=unconfirmed_seconds,
            is_abandoned=is_abandoned,
        )
    )


def kinds(of: Run, **other: Any) -> list[str]:
    found = limits(of, **{"pauses": (), "workers": 1, "signals": (), **other})
    return [str(limit.kind) for limit in found]


def slots_of(most: int, *, of_all: int, held: int, is_more_to_do: bool = True) -> Slots:
    return Slots(most=most, of_all=of_all, held=held, is_more_to_do=is_more_to_do)


def test_each_pause_is_told_with_its_reason_before_all_else() -> None:
    pauses = [paused("user", "lunch"), paused("signal", "lag = 42 s")]
    assert told(run(state="paused"), pauses=pauses, workers=0) == "user: lunch; signal: lag = 42 s"


def test_a_run_whose_process_is_gone_says_how_it_goes_on() -> None:
    own = run(executor="local")
    assert told(own, workers=0, is_abandoned=True) == (
        "its process is gone: `backfill run count` goes on here, `backfill resume count-1` on"
        " workers"
    )
    assert kinds(own, is_abandoned=True) == ["no process"]
    assert told(run(state="paused"), pauses=[paused("user", "lunch")], is_abandoned=True) == (
        "user: lunch"
    )


def test_no_worker_is_told_of_runs_that_need_one() -> None:
    assert "start one with `backfill worker`" in told(run(), workers=0)
    assert "worker" not in told(run(executor="local"), workers=0)


def test_a_commit_that_waits_for_a_standby_is_told_before_the_workers_that_wait_with_it() -> None:
    assert told(run(), workers=0, unconfirmed_seconds=12.4) == (
        "a commit that has waited 12 s for a synchronous standby"
    )
    assert kinds(run(), unconfirmed_seconds=12.4) == ["standby"]
    assert "standby" not in told(run(), unconfirmed_seconds=0.5)  # each commit waits a little
    assert told(
        run(state="paused"), pauses=[paused("user", "lunch")], unconfirmed_seconds=12.4
    ) == ("user: lunch")
    assert told(run(state="succeeded"), unconfirmed_seconds=12.4) == ""


def test_older_transactions_are_told_of_a_run_that_has_not_begun() -> None:
    assert "older transactions" in told(run(state="queued", barrier=["3/4"]))


def test_signals_that_slow_it_are_all_told_with_its_speed() -> None:
    signals = [sampled(12), sampled(1, "calm"), sampled(20, "other")]
    assert told(run(speed=0.25, options=Options(rate="100/s")), signals=signals) == (
        "signal lag = 12 s (slows from 10 s, stops at 30 s);"
        " signal other = 20 s (slows from 10 s, stops at 30 s): 25 % of full speed"
    )


def test_a_run_on_its_way_back_to_full_speed_says_so() -> None:
    assert told(run(speed=0.3), signals=[sampled(1)]) == (
        "signals, all well again: 30 % of full speed, rising"
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (Options(rate="100/s"), "its rate of 100/s"),
        (Options(duty=0.5), "its duty of 50 %"),
        (Options(rate="100/s", duty=0.25), "its rate of 100/s and its duty of 25 %"),
        (Options(concurrency=4), "the database itself, on 4 slots (concurrency)"),
        (Options(concurrency=1), "the database itself, on 1 slot (concurrency)"),
    ],
    ids=["rate", "duty", "both", "neither", "one slot"],
)
def test_at_full_speed_its_options_limit_it_or_the_database(
    options: Options, expected: str
) -> None:
    assert told(run(options=options), signals=[sampled(1)]) == expected


@pytest.mark.parametrize(
    ("options", "rows_per_second", "expected"),
    [
        (Options(rate="20000/s"), 19_200.0, "its rate of 20000/s"),
        (Options(rate="20000/s"), 16_100.0, "its rate of 20000/s"),
        (Options(rate="20000/s"), None, "its rate of 20000/s"),
        (
            Options(rate="20000/s", concurrency=4),
            15_900.0,
            "the database itself, on 4 slots (concurrency); its rate of 20000/s is not reached",
        ),
        (
            Options(rate="20000/s", duty=0.5),
            15_900.0,
            "its duty of 50 %; its rate of 20000/s is not reached",
        ),
        (Options(rate="1/min"), 0.0003, "its rate of 1/min"),
        (Options(concurrency=4), 100.0, "the database itself, on 4 slots (concurrency)"),
    ],
    ids=["reached", "nearly", "unknown", "not reached", "duty", "single rows", "no rate"],
)
def test_a_rate_that_is_not_reached_limits_nothing(
    options: Options, rows_per_second: float | None, expected: str
) -> None:
    assert told(run(options=options), rows_per_second=rows_per_second) == expected


def test_slots_that_other_runs_fill_are_told() -> None:
    four = Options(concurrency=4)
    assert told(run(options=four), slots=slots_of(8, of_all=8, held=2)) == (
        "max_slots of 8, which other runs fill: it holds 2 of 4 slots"
    )
    assert told(run(options=four), slots=slots_of(2, of_all=2, held=2)) == (
        "max_slots of 2: it holds 2 of 4 slots"
    )
    rated = Options(concurrency=4, rate="100/s")
    assert told(run(options=rated), slots=slots_of(8, of_all=8, held=2), rows_per_second=50) == (
        "max_slots of 8, which other runs fill: it holds 2 of 4 slots;"
        " its rate of 100/s is not reached"
    )


@pytest.mark.parametrize(
    "slots",
    [
        slots_of(8, of_all=7, held=2),
        slots_of(8, of_all=8, held=4),
        slots_of(8, of_all=8, held=2, is_more_to_do=False),
    ],
    ids=["there is room", "it holds all of its own", "it has no more slices"],
)
def test_slots_that_the_database_leaves_it_are_no_limit(slots: Slots) -> None:
    four = Options(concurrency=4)
    assert told(run(options=four), slots=slots) == "the database itself, on 4 slots (concurrency)"


def test_nothing_limits_a_run_that_has_ended() -> None:
    assert told(run(state="succeeded"), workers=0) == ""


def test_programs_are_told_the_kind_of_each_limit() -> None:
    pauses = [paused("user", "lunch"), paused("signal", "lag = 42 s")]
    assert kinds(run(state="paused"), pauses=pauses) == ["user", "signal"]
    assert kinds(run(), workers=0) == ["no worker"]
    assert kinds(run(state="queued", barrier=["3/4"])) == ["older transactions"]
    assert kinds(run(speed=0.3)) == ["signal"]
    rated = run(options=Options(rate="100/s", duty=0.25))
    assert kinds(rated) == ["rate", "duty"]
    assert kinds(rated, rows_per_second=50.0) == ["duty"]
    assert kinds(run(options=Options(rate="100/s")), rows_per_second=50.0) == ["database"]
    four = run(options=Options(concurrency=4))
    assert kinds(four, slots=slots_of(8, of_all=8, held=2)) == ["max_slots"]
    assert kinds(run()) == ["database"]
    assert kinds(run(state="succeeded")) == []


def test_every_cause_of_a_pause_is_a_kind_of_limit() -> None:
    assert {str(cause) for cause in PauseCause} <= {str(kind) for kind in Limiting}
