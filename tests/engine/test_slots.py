"""A database's limit on slots holds over all its runs, whoever asks at the same instant."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from backfill.engine.frontier import place_next
from backfill.engine.report import Ended
from backfill.engine.work import work
from backfill.job import Options
from backfill.pg import slices
from backfill.pg.connect import connect
from backfill.pg.ledger import Run
from backfill.settings import EngineSettings
from backfill.watch import progress
from tests.engine.factory import BOUND_SECONDS, Gate, Worksite
from tests.engine.jobs import Increment, Label

SMALL = Options(batch_rows=10, slice_rows=20, concurrency=4)
HELD = "SELECT count(*) FROM backfill.slice WHERE slot IS NOT NULL"


def limited_by(site: Worksite, run: Run) -> str:
    """What `status` says where one slot is all that the database lets its runs have."""
    read = progress.read(site.conn, site.ledger, run.id, checkpoint=None, max_slots=1)
    return read.limited_by


def test_a_slot_that_finds_no_room_ends_and_finds_it_later(site: Worksite) -> None:
    site.numbers(100)
    first, second = site.begun(Increment, options=SMALL), site.begun(Label, options=SMALL)
    gate = Gate("before the page")
    with site.crew(Increment, first, probe=gate, settings=EngineSettings(lease_seconds=60)):
        gate.wait()
        bench = site.bench(Label, second)
        bench.max_slots = 1
        try:
            assert work(bench, slot=0).ended is Ended.NO_ROOM
            assert site.outcome(second).counts.paged == 0
            assert limited_by(site, second) == (
                "max_slots of 1, which other runs fill: it holds 0 of 4 slots"
            )
            assert limited_by(site, first) == "max_slots of 1: it holds 1 of 4 slots"
        finally:
            gate.open()
    assert site.outcome(first).state == "succeeded"
    assert work(bench, slot=0).state == "succeeded"
    bench.conn.close()


def test_slots_that_ask_at_the_same_instant_do_not_exceed_the_limit(site: Worksite) -> None:
    """Eight sessions, three places: placed by the frontier and freed, and claimed again."""
    site.numbers(200)
    run = site.begun(Increment, options=replace(SMALL, concurrency=8))
    together = threading.Barrier(8)

    def ask(slot: int) -> bool:
        bench = site.bench(Increment, run)
        together.wait(BOUND_SECONDS)
        try:
            with slices.room(bench.conn, site.ledger, 3):
                placed = None
                while placed is None:  # another was faster at the frontier
                    frontier = bench.conn.execute(
                        "SELECT frontier, slices FROM backfill.run"
                    ).fetchone()
                    assert frontier is not None
                    placed = slices.place(
                        bench.conn,
                        site.ledger,
                        run.id,
                        after=None if frontier[0] is None else tuple(frontier[0]),
                        upto=(str(20 * (frontier[1] + 1)),),
                        is_last=False,
                        holder=f"holder {slot}",
                        slot=slot,
                        lease_seconds=60,
                    )
            return True
        except slices.NoRoomError:
            return False
        finally:
            bench.conn.close()

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask, range(8))) == 3
    assert site.value(HELD) == 3


def test_what_a_lost_holder_held_makes_room_when_its_lease_is_over(site: Worksite) -> None:
    site.numbers(100)
    run = site.begun(Increment, options=SMALL)
    with connect(site.url) as conn:
        held = slices.place(
            conn,
            site.ledger,
            run.id,
            after=None,
            upto=("20",),
            is_last=False,
            holder="lost",
            slot=0,
            lease_seconds=60,
        )
        assert held is not None
        with pytest.raises(slices.NoRoomError), slices.room(conn, site.ledger, 1):
            raise AssertionError("there is no room")
        site.execute("UPDATE backfill.slice SET lease_until = clock_timestamp()")
        with slices.room(conn, site.ledger, 1):
            pass


def test_whoever_holds_one_runs_row_keeps_no_other_run_from_its_slots(site: Worksite) -> None:
    """I5: the lock is every run's, and `cancel` holds a run's row until its batches have ended."""
    site.numbers(100)
    first, second = site.begun(Increment, options=SMALL), site.begun(Label, options=SMALL)
    benches = [
        site.bench(job, run, max_slots=5) for job, run in ((Increment, first), (Label, second))
    ]
    with site.session() as cancels, ThreadPoolExecutor(2) as pool:
        cancels.execute("SELECT FROM backfill.run WHERE id = %s FOR NO KEY UPDATE", [first.id])
        placing = pool.submit(place_next, benches[0], slot=0)
        site.until_waiting(benches[0].conn.info.backend_pid)
        try:
            other = pool.submit(place_next, benches[1], slot=0)
            assert other.result(BOUND_SECONDS / 3) is not None  # under the ledger's time-outs
            with pytest.raises(slices.NoRoomError):
                placing.result(BOUND_SECONDS)
        finally:
            cancels.rollback()
    assert place_next(benches[0], slot=0) is not None
    for bench in benches:
        bench.close()


def test_runs_under_a_limit_come_to_their_end(site: Worksite) -> None:
    site.numbers(400)
    runs = [site.begun(Increment, options=SMALL), site.begun(Label, options=SMALL)]
    most: list[int] = []

    def count(point: str) -> None:
        if point == "before the page":
            with connect(site.url) as watcher:
                row = watcher.execute(HELD).fetchone()
            most.append(row[0] if row else 0)

    with (
        site.crew(Increment, runs[0], threads=2, probe=count, max_slots=2),
        site.crew(Label, runs[1], threads=2, probe=count, max_slots=2),
    ):
        pass
    assert {site.outcome(run).state for run in runs} == {"succeeded"}
    assert 1 <= max(most) <= 2
