"""I3: a lost, late or doubled message changes nothing but the speed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest

from backfill.engine import lifecycle
from backfill.model import PauseCause, RunState
from tests.acceptance.crew import Crew, each_row_once

ROWS = 30_000
SLOTS = 2

JOBS = """
class Count(Job):
    source = Table("item")
    transform = Sql(n="n + 1")
    target = Update()
    options = Options(batch_rows=200, slice_rows=2_000, concurrency=2, rate="4000/s")
"""


@pytest.fixture
def working(crew: Crew) -> Crew:
    """Two workers with two children each, and twice as many of these as the job has slots."""
    crew.conn.execute("CREATE TABLE item (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    crew.conn.execute(b"INSERT INTO item (id) SELECT i FROM generate_series(1, %s) i", [ROWS])
    crew.write_jobs(JOBS)
    crew.keep_alive(2, children=2)
    crew.wait_for_workers(*crew.workers)
    return crew


@contextmanager
def holders_watched(crew: Crew, run: str) -> Iterator[set[int]]:
    """The numbers of slices that were held at once, looked at again and again."""
    seen: set[int] = set()
    over = threading.Event()

    def watch() -> None:
        desk = crew.project.open()
        while not over.wait(0.02):
            row = desk.conn.execute(
                b"SELECT count(*) FROM backfill.slice WHERE run = %s AND holder IS NOT NULL", [run]
            ).fetchone()
            seen.add(row[0] if row else 0)
        desk.conn.close()

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def ends_once(crew: Crew, run: str) -> None:
    """The run succeeds, and each row was counted once."""
    crew.wait_for(run, RunState.SUCCEEDED)
    each_row_once(crew, "item", ["n"], ROWS)
    assert crew.counts(run).written == ROWS


def consumed(crew: Crew) -> bool:
    """No message waits, and none is worked on."""
    with crew.app.connection_for_write() as connection:
        channel = connection.default_channel
        waiting = channel.queue_declare(crew.project.settings.queue, durable=True).message_count
        return not waiting and not channel.client.hlen("unacked")


@pytest.mark.slow
def test_messages_sent_five_times_over_fill_no_more_than_the_slots(working: Crew) -> None:
    run = working.enqueue("count")
    with holders_watched(working, run) as held_at_once:
        for part in range(1, 6):
            for _ in range(5):
                for slot in range(SLOTS):
                    working.send(run, slot)
            working.wait_for_rows(run, part * ROWS // 6)
        ends_once(working, run)
    assert held_at_once <= set(range(SLOTS + 1))
    assert SLOTS in held_at_once
    working.wait(lambda: consumed(working), "the doubled messages have come to an end")


@pytest.mark.slow
def test_lost_messages_are_sent_again(working: Crew) -> None:
    run = working.enqueue("count")
    for part in range(1, 5):
        working.app.control.purge()
        working.wait_for_rows(run, part * ROWS // 6)
    # also when every slot's message is gone: nobody has any, and nobody works
    lifecycle.pause(
        working.desk.conn,
        working.desk.ledger,
        run,
        PauseCause.USER,
        reason="so that no message is left",
        ends="the test",
        by="the test",
    )
    working.wait(lambda: not working.held(run) and consumed(working), "nobody works")
    lifecycle.lift(working.desk.conn, working.desk.ledger, run, [PauseCause.USER], by="the test")
    ends_once(working, run)


def test_a_message_for_a_slot_that_the_run_does_not_have_is_refused(working: Crew) -> None:
    run = working.enqueue("count")
    with holders_watched(working, run) as held_at_once:
        for slot in range(SLOTS, SLOTS + 6):
            working.send(run, slot)
        ends_once(working, run)
    assert held_at_once <= set(range(SLOTS + 1))


@pytest.mark.parametrize("lateness", ["ended", "paused", "another ledger", "unknown run"])
def test_a_late_message_changes_nothing(working: Crew, lateness: str) -> None:
    run = working.enqueue("count")
    working.wait_for_rows(run, ROWS // 10)
    desk = working.desk
    match lateness:
        case "ended":
            lifecycle.cancel(desk.conn, desk.ledger, run, reason="to be late", by="the test")
        case _:
            lifecycle.pause(
                desk.conn,
                desk.ledger,
                run,
                PauseCause.USER,
                reason="to be late",
                ends="the test",
                by="the test",
            )
    working.wait(lambda: not working.held(run) and consumed(working), "nobody works")
    before = ledger(working, run)
    for slot in range(SLOTS):
        match lateness:
            case "another ledger":
                working.send(run, slot, ledger=str(uuid4()))
            case "unknown run":
                working.send(run, slot, run="count-22222")
            case _:
                working.send(run, slot)
    working.wait(lambda: consumed(working), "the late messages were received")
    assert ledger(working, run) == before
    assert all(worker.is_alive for worker in working.workers)


def ledger(crew: Crew, run: str) -> list[list[tuple[object, ...]]]:
    """What the ledger says of a run, and the table."""
    return [
        crew.query("SELECT * FROM backfill.run WHERE id = %s", run),
        crew.query("SELECT * FROM backfill.slice WHERE run = %s ORDER BY number", run),
        crew.query("SELECT * FROM backfill.pause WHERE run = %s", run),
        # not whether people have been told of it: workers see to that beside their work
        crew.query(
            "SELECT id, at, name, caused_by, detail FROM backfill.event WHERE run = %s ORDER BY id",
            run,
        ),
        crew.query("SELECT sum(n), count(*) FROM item"),
    ]
