"""The sampler's rounds on a real ledger: its lease, what it writes, pauses and lifts."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backfill.engine import lifecycle
from backfill.engine.judge import FLOOR, STEP
from backfill.engine.sampler import ALL_WELL, Sampler
from backfill.events import Event
from backfill.model import PauseCause, SignalState
from backfill.pg.connect import Connection, connect
from backfill.pg.ledger import Ledger, Run, get_run, pauses
from backfill.pg.samples import Sample, read_samples
from backfill.signals import Reading, SignalSpec
from tests.engine.factory import Gate, Worksite
from tests.engine.jobs import Increment
from tests.profiles import share_of_examples

LAG = SignalSpec(name="lag", unit="s", stop=30, resume=10)
LOAD = SignalSpec(name="load", unit="", stop=8, resume=4)
SPECS = {"lag": LAG, "load": LOAD}
LEASE_SECONDS = 60.0
#: Rounds without a complaint from the floor to full speed, and one to lift.
LONG_ENOUGH = round((1 - FLOOR) / STEP) + 2


@dataclass
class Dial:
    """Stands in for the reader: gives to every run what a test sets."""

    values: dict[str, float | None] = field(default_factory=lambda: {"lag": 1.0, "load": 1.0})
    reads: int = 0
    gate: Gate | None = None

    def read(
        self, conn: Connection, ledger: Ledger, runs: Sequence[Run]
    ) -> Mapping[str, list[Reading]]:
        self.reads += 1
        found = [
            Reading(name=name, value=value, problem="" if value is not None else "it is away")
            for name, value in self.values.items()
        ]
        if self.gate is not None:
            self.gate("read")
        return {run.id: found for run in runs}


@dataclass
class Health:
    """A ledger with runs, and samplers by name that all read one dial."""

    site: Worksite
    dial: Dial = field(default_factory=Dial)
    specs: Mapping[str, SignalSpec] = field(default_factory=lambda: dict(SPECS))

    def sampler(self, name: str = "a", *, dial: Dial | None = None) -> Sampler:
        return Sampler(dial or self.dial, self.specs, by=name, lease_seconds=LEASE_SECONDS)

    def sample(self, name: str = "a", **values: float | None) -> bool:
        """Set the dial, and let this sampler do a round."""
        self.dial.values.update(values)
        return self.sampler(name).round(self.site.conn, self.site.ledger)

    def end_lease(self) -> None:
        """As if its time were over."""
        self.site.execute("UPDATE backfill.ledger SET sampler_until = clock_timestamp()")

    def samples(self, run: Run) -> dict[str, Sample]:
        found = read_samples(self.site.conn, self.site.ledger, run.id)
        return {sample.name: sample for sample in found}

    def states(self, run: Run) -> dict[str, str]:
        return {name: str(sample.state) for name, sample in self.samples(run).items()}

    def speed(self, run: Run) -> float:
        return get_run(self.site.conn, self.site.ledger, run.id).speed

    def causes(self, run: Run) -> set[str]:
        return {pause.cause for pause in pauses(self.site.conn, self.site.ledger, run.id)}


@pytest.fixture
def health(site: Worksite) -> Health:
    site.numbers(100)
    return Health(site)


@pytest.fixture
def run(health: Health) -> Run:
    """A run that works."""
    return health.site.begun(Increment)


def test_nothing_is_measured_where_no_run_is_live(health: Health) -> None:
    assert health.sample()
    assert health.dial.reads == 0


def test_one_samples_and_another_takes_over_when_its_lease_is_over(
    health: Health, run: Run
) -> None:
    assert health.sample("a")
    assert not health.sample("b")
    assert health.sample("a")
    assert health.dial.reads == 2
    health.end_lease()
    assert health.sample("b")
    assert not health.sample("a")


def test_a_lease_that_is_given_back_is_the_next_ones_at_once(health: Health, run: Run) -> None:
    sampler = health.sampler("a")
    assert sampler.round(health.site.conn, health.site.ledger)
    health.sampler("b").resign(health.site.conn, health.site.ledger)
    assert not health.sample("b"), "it was not b's to give"
    sampler.resign(health.site.conn, health.site.ledger)
    assert health.sample("b")


def test_samples_stand_in_the_ledger_and_say_since_when(health: Health, run: Run) -> None:
    health.sample(lag=12, load=None)
    first = health.samples(run)
    assert (first["lag"].value, first["lag"].state) == (12, SignalState.SLOW)
    assert (first["load"].value, first["load"].message) == (None, "it is away")
    assert first["load"].state is SignalState.OFF
    health.sample(lag=15, load=1)
    second = health.samples(run)
    assert second["lag"].since == first["lag"].since
    assert (second["lag"].at or 0) > (first["lag"].at or 0)  # type: ignore[operator]
    assert second["load"].since == second["load"].at, "it is in another state"


def test_a_signal_that_left_the_settings_leaves_the_ledger(health: Health, run: Run) -> None:
    health.sample(lag=40)
    assert health.causes(run) == {PauseCause.SIGNAL}
    health.specs = {"load": LOAD}
    health.sample()
    assert set(health.samples(run)) == {"load"}
    assert health.causes(run) == set()


def test_a_stop_pauses_the_run_and_says_why_and_what_ends_it(health: Health, run: Run) -> None:
    """I7."""
    health.sample(lag=42)
    outcome = health.site.outcome(run)
    assert outcome.state == "paused"
    assert outcome.why_paused == "signal: lag = 42 s (stops at 30 s, goes on below 10 s)"
    assert outcome.pauses[0].ends == "by itself when lag is below 10 s"
    assert outcome.pauses[0].caused_by == "signals, sampled by a"
    health.sample(lag=15)
    assert health.causes(run) == {PauseCause.SIGNAL}, "it must come below resume"
    health.sample(lag=9)
    outcome = health.site.outcome(run)
    assert (outcome.state, outcome.pauses) == ("running", [])
    assert outcome.event(Event.RUN_RESUMED).detail == {"causes": ["signal"]}
    assert health.speed(run) == FLOOR


def test_the_reason_of_a_pause_names_the_signals_that_join_and_leave(
    health: Health, run: Run
) -> None:
    def why() -> str:
        return health.site.outcome(run).why_paused

    health.sample(lag=42)
    health.sample(lag=43, load=9)
    assert "lag = 43 s" in why()
    assert "load = 9" in why()
    health.sample(lag=1, load=9)
    assert why() == "signal: load = 9 (stops at 8, goes on below 4)"
    assert health.site.outcome(run).event_names.count(Event.RUN_PAUSED) == 1


def test_what_cannot_be_read_any_more_stops_the_run_until_it_can(health: Health, run: Run) -> None:
    health.sample(load=2)
    health.sample(load=None)
    outcome = health.site.outcome(run)
    assert outcome.why_paused == "signal: load cannot be read: it is away"
    assert outcome.pauses[0].ends == "by itself when load can be read"
    health.sample(load=2)
    assert health.causes(run) == set()


def test_what_a_role_never_could_read_is_off_and_said_once(health: Health, run: Run) -> None:
    for name in ("a", "a", "b"):
        health.end_lease()
        health.sample(name, load=None)
    outcome = health.site.outcome(run)
    assert (outcome.state, health.states(run)["load"]) == ("running", "off")
    assert outcome.event_names.count(Event.SIGNAL_OFF) == 1
    assert outcome.event(Event.SIGNAL_OFF).detail == {"signal": "load", "reason": "it is away"}


def test_slowing_down_and_full_speed_are_events_the_steps_between_are_not(
    health: Health, run: Run
) -> None:
    for _ in range(3):
        health.sample(lag=12)
    assert health.speed(run) == 0.125
    for _ in range(LONG_ENOUGH):
        health.sample(lag=1)
    assert health.speed(run) == 1.0
    told = [
        event.detail for event in health.site.outcome(run).events if event.name == Event.RUN_SLOWED
    ]
    assert told == [
        {"speed": 0.5, "reasons": ["lag = 12 s (slows from 10 s, stops at 30 s)"]},
        {"speed": 1.0, "reasons": [ALL_WELL]},
    ]


def test_only_its_own_cause_is_touched(health: Health, run: Run) -> None:
    health.site.pause(run, PauseCause.USER)
    health.sample(lag=42)
    assert health.causes(run) == {PauseCause.USER, PauseCause.SIGNAL}
    health.sample(lag=1)
    assert health.causes(run) == {PauseCause.USER}
    assert health.site.outcome(run).state == "paused"


def test_a_pause_for_want_of_samples_ends_with_the_first_good_one(health: Health, run: Run) -> None:
    """Workers add this cause themselves when nobody samples (fail closed)."""
    health.site.pause(run, PauseCause.SIGNAL)
    health.sample(lag=42)
    assert "lag = 42 s" in health.site.outcome(run).why_paused, (
        "the true reason, now that it is known"
    )
    health.sample(lag=1)
    assert health.causes(run) == set()
    health.site.pause(run, PauseCause.SIGNAL)
    health.sample()
    assert (health.causes(run), health.speed(run)) == (set(), FLOOR)


def test_a_run_that_ends_takes_its_samples_along(health: Health, run: Run) -> None:
    health.sample(lag=12)
    lifecycle.cancel(health.site.conn, health.site.ledger, run.id, reason="-", by="the test")
    assert health.samples(run) == {}
    health.sample()
    assert health.samples(run) == {}


def test_a_queued_run_is_stopped_and_goes_back_to_the_queue(health: Health) -> None:
    run = health.site.enqueue(Increment)
    health.sample(lag=42)
    assert health.site.outcome(run).state == "paused"
    health.sample(lag=1)
    assert health.site.outcome(run).state == "queued"


def test_a_run_whose_row_is_held_does_not_hold_up_the_others(health: Health, run: Run) -> None:
    health.site.numbers(10, name="u")
    with health.site.session() as other:
        other.execute("SELECT FROM backfill.run WHERE id = %s FOR UPDATE", [run.id])
        with health.site.session() as third:
            # a second live run, written past the engine
            third.execute(
                "INSERT INTO backfill.run (id, job, job_version, fingerprint, declaration, params,"
                " options, executor, requested_by, source, state) VALUES ('z', 'z', 1, '', '{}',"
                " '{}', '{}', 'local', 'test', '{}', 'running')"
            )
            third.commit()
        health.sample(lag=42)
    assert health.samples(run) == {}
    free = get_run(health.site.conn, health.site.ledger, "z")
    assert free.state == "paused"


def test_who_measured_before_another_wrote_writes_nothing(health: Health, run: Run) -> None:
    """A sampler that stood still comes back with an old measurement: the newer one stays."""
    late = Dial(values={"lag": 42.0, "load": 1.0}, gate=Gate("read"))
    assert late.gate is not None
    conn = connect(health.site.url)
    thread = threading.Thread(
        target=health.sampler("late", dial=late).round, args=(conn, health.site.ledger)
    )
    thread.start()
    late.gate.wait()
    health.end_lease()
    assert health.sample("a", lag=12)
    late.gate.open()
    thread.join(30)
    conn.close()
    assert health.samples(run)["lag"].value == 12
    assert (health.causes(run), health.speed(run)) == (set(), 0.5)


def test_two_samplers_at_once_do_no_harm(health: Health, run: Run) -> None:
    """Both think that they hold the lease; values go up and down; the end is as with one."""
    problems: list[BaseException] = []
    ready = threading.Barrier(2)

    def rounds(name: str) -> None:
        try:
            with psycopg.connect(health.site.url, autocommit=True) as conn:
                dial = Dial()
                sampler = health.sampler(name, dial=dial)
                ready.wait(30)
                for value in [1, 15, 40, 15, 1, 40, None, 1, 15, 40]:
                    dial.values["lag"] = value
                    conn.execute("UPDATE backfill.ledger SET sampler_until = clock_timestamp()")
                    sampler.round(conn, health.site.ledger)
        except BaseException as error:  # noqa: BLE001 - a thread's boundary
            problems.append(error)

    threads = [threading.Thread(target=rounds, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    assert health.causes(run) == {PauseCause.SIGNAL}
    assert health.states(run)["lag"] == "stop"
    outcome = health.site.outcome(run)
    names = [e.name for e in outcome.events if e.name in {Event.RUN_PAUSED, Event.RUN_RESUMED}]
    assert names == [(Event.RUN_PAUSED, Event.RUN_RESUMED)[i % 2] for i in range(len(names))]
    health.end_lease()
    for _ in range(LONG_ENOUGH):
        health.sample(lag=1)
    assert (health.causes(run), health.speed(run)) == (set(), 1.0)


@pytest.fixture
def story(site: Worksite) -> Health:
    """One database for all examples of a property; each has its own run."""
    site.numbers(10)
    return Health(site)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("sample"), st.sampled_from("ab"), st.sampled_from([1, 15, 40, None])),
        st.tuples(st.just("lease over"), st.none(), st.none()),
        st.tuples(st.just("silence"), st.none(), st.none()),
        st.tuples(st.just("user"), st.none(), st.none()),
    ),
    max_size=10,
)


@settings(share_of_examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, required=st.booleans())
def test_whatever_happens_the_run_is_paused_for_what_the_ledger_says_and_comes_back(
    story: Health, steps: list[tuple[str, str | None, float | None]], required: bool
) -> None:
    """Samples, lost leases, silence and people: a stop always has its reason, none is for ever."""
    site = story.site
    story.specs = {"lag": SignalSpec(name="lag", unit="s", stop=30, resume=10, required=required)}
    run = site.begun(Increment)
    speed = 1.0
    for action, name, value in steps:
        if action == "sample" and name is not None:
            story.dial.values = {"lag": value}
            if story.sample(name):
                (sample,) = story.samples(run).values()
                paused = PauseCause.SIGNAL in story.causes(run)
                assert paused == sample.state.stops
                assert story.speed(run) <= speed + STEP + 1e-9
                if paused:
                    assert story.speed(run) == FLOOR
        elif action == "lease over":
            story.end_lease()
        elif action == "silence":
            site.pause(run, PauseCause.SIGNAL)
        else:
            site.pause(run, PauseCause.USER)
        speed = story.speed(run)
        for pause in site.outcome(run).pauses:
            assert pause.reason
            assert pause.ends
    story.end_lease()
    story.dial.values = {"lag": 1}
    for _ in range(LONG_ENOUGH):
        assert story.sample("c")
    assert PauseCause.SIGNAL not in story.causes(run)
    assert story.speed(run) == 1.0
    if "user" not in [action for action, _, _ in steps]:
        assert site.outcome(run).state == "running"
    lifecycle.cancel(site.conn, site.ledger, run.id, reason="the next example", by="the test")
    story.end_lease()
