"""The reconciler's rounds, one at a time: no worker runs here, and time is moved in the ledger."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import psycopg
import pytest
from kombu.exceptions import OperationalError

from backfill.clock import SystemClock
from backfill.engine import lifecycle
from backfill.engine.begin import begin
from backfill.engine.bench import Bench
from backfill.engine.enqueue import create_run
from backfill.engine.frontier import place_next
from backfill.engine.pace import LocalLimiter
from backfill.events import Event
from backfill.job import Options
from backfill.local.redis import LocalRedis
from backfill.model import PauseCause, RunState
from backfill.pg.connect import application_name
from backfill.pg.slices import Slice
from backfill.worker.reconcile import LOST_SECONDS, Reconciler, Round
from tests.acceptance.crew import QUICK, Crew
from tests.services import PostgresServer


class Rounds:
    """Reconcilers by name, each as in a worker of its own."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._made: dict[str, Reconciler] = {}

    def __call__(self, name: str = "a") -> Round:
        if name not in self._made:
            self._made[name] = Reconciler(self._crew.project, self._crew.app, name=name)
        return self._made[name].round(self._crew.desk)

    def close(self) -> None:
        for reconciler in self._made.values():
            reconciler.end(self._crew.desk)


@pytest.fixture
def rounds(crew: Crew) -> Iterator[Rounds]:
    rounds = Rounds(crew)
    yield rounds
    rounds.close()


def waiting(crew: Crew) -> list[int]:
    """The slots whose messages wait in the queue; they are taken out."""
    slots = []
    with crew.app.connection_for_write() as connection:
        channel = connection.default_channel
        while (message := channel.basic_get(crew.project.settings.queue, no_ack=True)) is not None:
            slots.append(message.payload[1]["slot"])
    return sorted(slots)


def let_pass(crew: Crew, seconds: float) -> None:
    """As if messages had been sent, and leases renewed, so much longer ago."""
    crew.conn.execute(
        b"UPDATE backfill.slot SET sent_at = sent_at - make_interval(secs => %s)", [seconds]
    )
    crew.conn.execute(
        b"UPDATE backfill.slice SET lease_until = lease_until - make_interval(secs => %s)"
        b" WHERE holder IS NOT NULL",
        [seconds],
    )


@pytest.fixture
def benches(crew: Crew) -> Iterator[list[Bench]]:
    """The workbenches that a test made."""
    made: list[Bench] = []
    yield made
    for bench in made:
        bench.conn.close()


def begun(crew: Crew, benches: list[Bench], run: str) -> Bench:
    """Let the run begin as a worker would; returns that worker's bench."""
    project, clock = crew.project, SystemClock()
    bench = project.bench(
        crew.desk,
        crew.run(run),
        project.declaration(crew.run(run).job),
        clock=clock,
        limiter=LocalLimiter(clock),
    )
    benches.append(bench)
    begin(bench)
    assert crew.state(run) is RunState.RUNNING
    return bench


def hold(bench: Bench, slot: int) -> Slice:
    """Hold the next slice in this slot, as a worker would."""
    held = place_next(bench, slot=slot)
    assert held is not None
    return held


def test_one_reconciler_leads_and_another_takes_over_when_it_is_silent(
    crew: Crew, rounds: Rounds
) -> None:
    assert rounds("a").is_leader
    assert not rounds("b").is_leader
    assert rounds("a").is_leader
    time.sleep(2 * QUICK["reconcile_seconds"] + 0.1)  # its lease, by the server's clock
    assert rounds("b").is_leader
    assert not rounds("a").is_leader


def test_every_worker_says_that_it_lives_and_is_forgotten_when_it_has_not_for_long(
    crew: Crew, rounds: Rounds
) -> None:
    rounds("a")
    rounds("b")
    assert crew.query("SELECT name FROM backfill.worker ORDER BY name") == [("a",), ("b",)]
    crew.conn.execute("UPDATE backfill.worker SET seen_at = seen_at - interval '2 hours'")
    rounds("a")
    assert crew.query("SELECT name FROM backfill.worker") == [("a",)]


def test_a_new_runs_messages_are_sent_once_and_again_when_they_are_lost(
    crew: Crew, rounds: Rounds
) -> None:
    crew.enqueue("count")
    assert waiting(crew) == [0, 1]  # as it was enqueued; now they are lost
    assert rounds().sent == 0, "they may be on their way"
    let_pass(crew, LOST_SECONDS)
    assert rounds().sent == 2
    assert waiting(crew) == [0, 1]


def test_a_message_that_may_still_wait_for_its_turn_is_not_sent_again(
    crew: Crew, rounds: Rounds
) -> None:
    crew.enqueue("count")
    let_pass(crew, LOST_SECONDS + 1.5 * QUICK["task_seconds"])
    assert rounds().sent == 0, "two messages wait: each may take a task's time"
    let_pass(crew, QUICK["task_seconds"])
    assert rounds().sent == 2


def test_slots_that_are_filled_are_left_alone(
    crew: Crew, rounds: Rounds, benches: list[Bench]
) -> None:
    run = crew.enqueue("count")
    hold(begun(crew, benches, run), 0)
    waiting(crew)
    crew.conn.execute("UPDATE backfill.slot SET sent_at = '-infinity'")
    assert rounds().sent == 1
    assert waiting(crew) == [1]


def test_nothing_is_sent_while_there_is_no_work(
    crew: Crew, rounds: Rounds, benches: list[Bench]
) -> None:
    """All slices are placed, one is held and the others wait after a failure."""
    run = crew.enqueue("count")
    bench = begun(crew, benches, run)
    hold(bench, 0)
    while place_next(bench, slot=1) is not None:
        crew.conn.execute(
            "UPDATE backfill.slice SET holder = NULL, slot = NULL, lease_until = NULL,"
            " not_before = clock_timestamp() + interval '1 minute' WHERE slot = 1"
        )
    waiting(crew)
    crew.conn.execute("UPDATE backfill.slot SET sent_at = '-infinity'")
    assert rounds().sent == 0
    crew.conn.execute("UPDATE backfill.slice SET not_before = '-infinity'")
    assert rounds().sent == 1


def test_a_lapsed_slice_is_freed_and_its_slots_message_sent_at_once(
    crew: Crew, rounds: Rounds, benches: list[Bench]
) -> None:
    run = crew.enqueue("count")
    bench = begun(crew, benches, run)
    held = hold(bench, 0)
    hold(bench, 1)
    assert rounds() == Round(is_leader=True)
    crew.conn.execute("UPDATE backfill.slice SET lease_until = clock_timestamp() WHERE slot = 0")
    assert rounds() == Round(is_leader=True, freed=1, sent=1)
    assert waiting(crew) == [0, 0, 1]
    ((holder, epoch),) = crew.query(
        "SELECT holder, epoch FROM backfill.slice WHERE number = %s", held.number
    )
    assert (holder, epoch) == (None, held.epoch + 1)
    told = [event for event in crew.events(run) if event.name == Event.SLICE_FREED]
    assert [event.detail for event in told] == [  # I7
        {"slice": held.number, "holder": bench.holder, "epoch": held.epoch}
    ]


def wait_for_event(crew: Crew, name: str, event: str) -> None:
    """Wait until the backend of that name waits for this."""
    crew.wait(
        lambda: crew.query(
            "SELECT FROM pg_stat_activity WHERE application_name = %s AND wait_event = %s",
            name,
            event,
        ),
        f"the backend waits for {event}",
    )


@pytest.mark.parametrize("stuck", ["idle in its transaction", "not reading its answer"])
def test_a_lost_holder_that_keeps_its_batch_open_is_ended(
    crew: Crew, rounds: Rounds, benches: list[Bench], db_url: str, stuck: str
) -> None:
    """A process that stands still cannot be asked; while it fetches no time-out fires either."""
    run = crew.enqueue("count")
    held = hold(begun(crew, benches, run), 0)
    let_pass(crew, QUICK["lease_seconds"])
    name = application_name(held.run, held.number, held.epoch)
    lost = psycopg.connect(db_url, application_name=name)
    lost.execute("SELECT FROM backfill.slice WHERE number = %s FOR UPDATE", [held.number])
    if stuck == "not reading its answer":
        lost.pgconn.send_query(b"SELECT repeat('x', 10000) FROM generate_series(1, 100000)")
        lost.pgconn.flush()
        wait_for_event(crew, name, "ClientWrite")
    assert rounds().freed == 0, "its row was locked"
    crew.wait(
        lambda: not crew.query("SELECT FROM pg_stat_activity WHERE application_name = %s", name),
        "its backend is ended",
    )
    assert Event.BACKEND_TERMINATED in {event.name for event in crew.events(run)}
    assert rounds().freed == 1
    lost.close()


def test_a_slow_batch_is_not_ended(
    crew: Crew, rounds: Rounds, benches: list[Bench], db_url: str
) -> None:
    """Its statement runs: it is late, not lost; the statement's time-out bounds it."""
    run = crew.enqueue("count")
    held = hold(begun(crew, benches, run), 0)
    let_pass(crew, QUICK["lease_seconds"])
    name = application_name(held.run, held.number, held.epoch)
    with psycopg.connect(db_url, application_name=name) as slow:
        slow.execute("SELECT FROM backfill.slice WHERE number = %s FOR UPDATE", [held.number])
        slow.pgconn.send_query(b"SELECT pg_sleep(1)")
        slow.pgconn.flush()
        wait_for_event(crew, name, "PgSleep")
        assert rounds().freed == 0
        answer = slow.pgconn.get_result()
        assert answer is not None
        assert answer.error_message == b""
        while slow.pgconn.get_result() is not None:
            pass


def test_nobody_but_the_lost_holders_is_ended(
    crew: Crew,
    rounds: Rounds,
    benches: list[Bench],
    db_url: str,
    postgres_server: PostgresServer,
) -> None:
    """PostgreSQL orders conditions by their cost: ending a backend must not be one of them."""
    run = crew.enqueue("count", options=Options(slice_rows=100, concurrency=8))
    bench = begun(crew, benches, run)
    slices = [hold(bench, slot) for slot in range(8)]
    let_pass(crew, QUICK["lease_seconds"])
    names = [application_name(held.run, held.number, held.epoch) for held in slices]
    with ExitStack() as stack:
        lost = [
            stack.enter_context(psycopg.connect(db_url, application_name=name)) for name in names
        ]
        for held, one in zip(slices, lost, strict=True):
            one.execute("SELECT FROM backfill.slice WHERE number = %s FOR UPDATE", [held.number])
        bystanders = [
            stack.enter_context(psycopg.connect(db_url)),
            stack.enter_context(psycopg.connect(postgres_server.url(), application_name=names[0])),
        ]
        for one in bystanders:
            one.execute("SELECT 1")  # idle in transaction, too
        assert rounds().freed == 0
        for one in lost:
            with pytest.raises(psycopg.errors.AdminShutdown):
                one.execute("SELECT 1")
        for one in bystanders:
            one.execute("SELECT 1")
    assert rounds().freed == 8


def test_a_paused_runs_messages_are_withheld(crew: Crew, rounds: Rounds) -> None:
    run = crew.enqueue("count")
    waiting(crew)
    lifecycle.pause(
        crew.desk.conn,
        crew.desk.ledger,
        run,
        PauseCause.USER,
        reason="lunch",
        ends="soon",
        by="a person",
    )
    let_pass(crew, 60)
    assert rounds().sent == 0
    lifecycle.lift(crew.desk.conn, crew.desk.ledger, run, [PauseCause.USER], by="a person")
    assert rounds().sent == 2


def test_a_run_of_a_process_of_its_own_gets_no_messages(crew: Crew, rounds: Rounds) -> None:
    project = crew.project
    create_run(
        crew.desk.conn,
        crew.desk.ledger,
        project.declaration("count"),
        params={},
        options=None,
        executor="local",
        by="a person",
    )
    assert rounds().sent == 0
    assert waiting(crew) == []


def test_an_ended_run_gets_no_messages(crew: Crew, rounds: Rounds) -> None:
    run = crew.enqueue("count")
    lifecycle.cancel(crew.desk.conn, crew.desk.ledger, run, reason="enough", by="a person")
    waiting(crew)
    let_pass(crew, 60)
    assert rounds().sent == 0


@pytest.mark.parametrize(
    ("window", "is_open"),
    [("00:00-24:00 UTC", True), (None, True), ("00:00-24:00 UTC, but later", False)],
    ids=["open", "taken away", "closed"],
)
def test_a_pause_for_a_window_is_lifted_when_it_is_open(
    crew: Crew, rounds: Rounds, window: str | None, is_open: bool
) -> None:
    if window is not None and not is_open:
        ((hour,),) = crew.query("SELECT extract(hour FROM now() AT TIME ZONE 'UTC')::int")
        opens = (int(str(hour)) + 12) % 24
        window = f"{opens:02}:00-{opens:02}:30 UTC"
    run = crew.enqueue("count", options=Options(window=window))
    for cause in (PauseCause.WINDOW, PauseCause.USER):
        lifecycle.pause(
            crew.desk.conn,
            crew.desk.ledger,
            run,
            cause,
            reason="closed",
            ends="when it opens",
            by="a worker",
        )
    rounds()
    expected = {PauseCause.USER} if is_open else {PauseCause.USER, PauseCause.WINDOW}
    assert crew.causes(run) == expected  # each cause is lifted by its own kind only
    assert crew.state(run) is RunState.PAUSED


def test_the_checkpoint_is_mended_from_the_ledger(
    crew: Crew, rounds: Rounds, benches: list[Bench]
) -> None:
    run = crew.enqueue("count")
    hold(begun(crew, benches, run), 0)
    crew.conn.execute("UPDATE backfill.slice SET paged = 70, written = 70")
    checkpoint = crew.project.checkpoint(crew.desk.ledger)
    assert checkpoint is not None
    assert checkpoint.read(run) is None
    rounds()
    snapshot = checkpoint.read(run)
    assert snapshot is not None
    assert snapshot.counts.written == 70
    checkpoint.close()


def test_without_redis_a_round_still_frees_slices_and_ends_soon(
    crew: Crew, rounds: Rounds, benches: list[Bench], own_redis: LocalRedis
) -> None:
    run = crew.enqueue("count")
    hold(begun(crew, benches, run), 0)
    let_pass(crew, QUICK["lease_seconds"])
    crew.add_environment(BACKFILL_REDIS_URL=own_redis.url())
    own_redis.stop()
    began = time.monotonic()
    rounds()  # the lost holder's slot is sent at once, and sending is allowed to fail
    let_pass(crew, 60)
    with pytest.raises(OperationalError):
        rounds()  # how many messages wait cannot be told
    assert time.monotonic() - began < 5
    assert crew.held(run) == 0
    assert Event.SLICE_FREED in {event.name for event in crew.events(run)}
