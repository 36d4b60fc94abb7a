"""The demo's loss of a worker: what it says of the slices, however fast they go on."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from backfill.local.loss import Loss
from backfill.local.screen import Screen
from backfill.local.stage import Worker
from backfill.model import Counts, SlicePhase
from backfill.pg import slices
from backfill.pg.connect import connect
from backfill.pg.ledger import open_ledger
from backfill.pg.slices import Slice
from backfill.project import Desk
from tests.pg.holding import LAPSED, LONG, RUN, insert_run, placed

SLICE_ROWS = 10


@pytest.fixture
def desk(db_url: str) -> Iterator[Desk]:
    with connect(db_url) as conn:
        insert_run(conn, RUN)
        ledger = open_ledger(conn, schema="backfill")
        yield Desk(database="default", url=db_url, conn=conn, ledger=ledger)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    """A process group of its own, as a worker is."""
    worker = Worker("w1", log=tmp_path / "log")
    worker.start(["sleep", "600"], folder=tmp_path, environment={})
    yield worker
    worker.kill()


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def loss(desk: Desk, worker: Worker, said: io.StringIO) -> Loss:
    screen = Screen(Console(file=said, width=200))
    return Loss(desk, screen, [worker], slice_rows=SLICE_ROWS, lease_seconds=10.0)


def held(desk: Desk, worker: Worker, number: int, lease: float = LAPSED) -> Slice:
    holder = f"host:{worker.pid}.{number}"
    return placed(desk.conn, desk.ledger, number, slot=number, holder=holder, lease=lease)


def page(desk: Desk, one: Slice, rows: int) -> None:
    slices.record(
        *(desk.conn, desk.ledger, one),
        cursor=one.upto,
        added=Counts(paged=rows, written=rows),
        phase=SlicePhase.WALK,
        lease_seconds=LAPSED,
    )


def take(desk: Desk, holder: str = "host:1.1") -> Slice:
    taken = slices.claim(
        *(desk.conn, desk.ledger, RUN, SlicePhase.WALK),
        holder=holder,
        slot=9,
        lease_seconds=LONG,
    )
    assert taken is not None
    return taken


def test_only_a_worker_that_is_within_a_slice_is_killed(
    desk: Desk, worker: Worker, loss: Loss, said: io.StringIO
) -> None:
    assert not loss.kill_one(RUN)  # it holds nothing
    first = held(desk, worker, 1)
    page(desk, first, SLICE_ROWS - 1)
    assert not loss.kill_one(RUN)  # it is about to give it back
    assert worker.is_running
    assert not loss.has_fallen

    held(desk, worker, 2)
    assert loss.kill_one(RUN)
    assert loss.has_fallen
    assert not worker.is_running
    assert "worker w1 killed with SIGKILL; its lease of slices 1 and 2 runs out" in said.getvalue()


def test_a_slice_that_it_gave_back_until_it_was_dead_is_not_lost(
    desk: Desk, worker: Worker, loss: Loss, said: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = held(desk, worker, 1)
    held(desk, worker, 2)
    kill = Worker.kill

    def kill_late(of: Worker) -> None:
        assert slices.release(desk.conn, desk.ledger, first)
        kill(of)

    monkeypatch.setattr(Worker, "kill", kill_late)
    assert loss.kill_one(RUN)
    loss.tell_of_the_rest(RUN)
    assert "its lease of slice 2 runs out" in said.getvalue()
    assert "slice 1" not in said.getvalue()


def test_whoever_goes_on_is_named_once(
    desk: Desk, worker: Worker, loss: Loss, said: io.StringIO
) -> None:
    held(desk, worker, 1)
    assert loss.kill_one(RUN)
    loss.look(RUN)
    assert "goes on" not in said.getvalue()

    take(desk)
    loss.look(RUN)
    loss.look(RUN)
    loss.tell_of_the_rest(RUN)
    assert said.getvalue().count("slice 1 of w1 goes on with another worker, from its cursor") == 1
    assert "went on" not in said.getvalue()


def test_a_slice_that_was_taken_and_ended_between_two_looks_is_told_of_at_the_end(
    desk: Desk, worker: Worker, loss: Loss, said: io.StringIO
) -> None:
    held(desk, worker, 1)
    assert loss.kill_one(RUN)
    assert slices.release(desk.conn, desk.ledger, take(desk))
    loss.look(RUN)
    assert "goes on" not in said.getvalue()

    loss.tell_of_the_rest(RUN)
    assert said.getvalue().count("slice 1 of w1 went on with another worker, from its cursor") == 1


def test_a_slice_that_the_dead_worker_ended_itself_is_told_of_as_that(
    desk: Desk, worker: Worker, loss: Loss, said: io.StringIO
) -> None:
    """A statement that it had sent can arrive after its death."""
    first = held(desk, worker, 1)
    assert loss.kill_one(RUN)
    assert slices.release(desk.conn, desk.ledger, first)
    loss.tell_of_the_rest(RUN)
    assert "slice 1 was ended by the last that w1 sent" in said.getvalue()
    assert "went on" not in said.getvalue()
