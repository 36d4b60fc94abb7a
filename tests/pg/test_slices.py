"""Placing slices, filling slots, claiming: one holder at a time (I1, I2, I3)."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import psycopg
import pytest

from backfill.model import RunState, SlicePhase
from backfill.pg import slices
from backfill.pg.connect import READ_LIMITS, Connection, Limits, connect, transaction
from backfill.pg.failure import FaultKind, classify
from backfill.pg.ledger import Ledger, get_run, totals
from backfill.pg.slices import SlotTakenError
from tests.pg.holding import (
    LAPSED,
    LONG,
    batch_of,
    claim,
    free_slices,
    insert_run,
    place,
    placed,
    row,
)

# --- placing -------------------------------------------------------------------------------------


def test_a_placed_slice_is_held_and_the_frontier_has_moved(
    pg: Connection, ledger: Ledger, run: str
) -> None:
    first = placed(pg, ledger, 1, slot=3)
    assert (first.number, first.after, first.upto, first.cursor) == (1, None, ("10",), None)
    assert (first.phase, first.epoch, first.passes) == (SlicePhase.WALK, 1, 0)
    second = placed(pg, ledger, 2, slot=4, is_last=True)
    assert (second.number, second.after, second.upto) == (2, ("10",), ("20",))
    now = get_run(pg, ledger, run)
    assert (now.frontier, now.slices, now.frontier_done) == (["20"], 2, True)
    assert row(pg, 1, "holder, slot, lease_until > now()") == ("a", 3, True)


def test_a_frontier_that_another_moved_is_not_moved_again(
    pg: Connection, ledger: Ledger, run: str
) -> None:
    """I2: compare-and-swap, or slices would overlap."""
    placed(pg, ledger, 1, slot=0)
    assert place(pg, ledger, 1, slot=1) is None
    assert place(pg, ledger, 3, slot=1) is None
    placed(pg, ledger, 2, slot=1, is_last=True)
    assert place(pg, ledger, 3, slot=2) is None
    assert get_run(pg, ledger, run).slices == 2


def test_the_swap_compares_composite_keys_with_odd_values(
    pg: Connection, ledger: Ledger, run: str
) -> None:
    keys = [None, ("", "NULL"), ("", 'a"\\{},'), ("ß", "")]
    for i, (after, upto) in enumerate(pairwise(keys)):
        assert upto is not None
        held = slices.place(
            *(pg, ledger, run),
            after=after,
            upto=upto,
            is_last=False,
            holder="a",
            slot=i,
            lease_seconds=LONG,
        )
        assert held is not None
        assert (held.after, held.upto) == (after, upto)


@pytest.mark.parametrize("state", [state for state in RunState if state is not RunState.RUNNING])
def test_nothing_is_placed_unless_the_run_walks(
    pg: Connection, ledger: Ledger, run: str, state: RunState
) -> None:
    pg.execute("SET session_replication_role = replica")  # past the trigger
    pg.execute("UPDATE backfill.run SET state = %s", [str(state)])
    assert place(pg, ledger, 1, slot=0) is None
    assert totals(pg, ledger, run).by_phase["walk"] == 0


def test_of_many_that_place_the_same_slice_one_does(
    db_url: str, pg: Connection, ledger: Ledger, run: str
) -> None:
    start = threading.Barrier(6)

    def contend(slot: int) -> list[int]:
        mine = []
        with connect(db_url) as conn:
            start.wait()
            for number in range(1, 21):
                held = place(conn, ledger, number, slot=slot)
                if held is not None:
                    mine.append(held.number)
                    slices.release(conn, ledger, held)
        return mine

    with ThreadPoolExecutor(6) as pool:
        numbers = [number for mine in pool.map(contend, range(6)) for number in mine]
    placed_now = get_run(pg, ledger, run).slices
    assert sorted(numbers) == list(range(1, placed_now + 1))
    chain = pg.execute(
        'SELECT "after" IS NOT DISTINCT FROM lag(upto) OVER (ORDER BY number) FROM backfill.slice'
    ).fetchall()
    assert set(chain) == {(True,)}


# --- slots ---------------------------------------------------------------------------------------


def test_a_slot_is_filled_by_one_slice(pg: Connection, ledger: Ledger, run: str) -> None:
    """A doubled message finds its slot taken, and changes nothing."""
    free_slices(pg, ledger, 1)
    placed(pg, ledger, 2, slot=7)
    with pytest.raises(SlotTakenError, match=f"slot 7 of run {run} is filled"):
        place(pg, ledger, 3, slot=7)
    assert (get_run(pg, ledger, run).frontier, get_run(pg, ledger, run).slices) == (["20"], 2)
    with pytest.raises(SlotTakenError):
        claim(pg, ledger, slot=7)
    assert row(pg, 1, "epoch, holder") == (1, None)
    assert claim(pg, ledger, slot=8) is not None


def test_the_same_slot_of_another_run_is_another_slot(
    pg: Connection, ledger: Ledger, run: str
) -> None:
    placed(pg, ledger, 1, slot=0)
    insert_run(pg, "other-abcde")
    held = slices.place(
        *(pg, ledger, "other-abcde"),
        after=None,
        upto=("10",),
        is_last=True,
        holder="a",
        slot=0,
        lease_seconds=LONG,
    )
    assert held is not None


def test_a_slot_is_free_again_when_its_slice_is_given_back(
    pg: Connection, ledger: Ledger, run: str
) -> None:
    assert slices.release(pg, ledger, placed(pg, ledger, 1, slot=0))
    placed(pg, ledger, 2, slot=0)


# --- claiming ------------------------------------------------------------------------------------


def test_a_free_slice_is_taken_with_a_newer_epoch_the_lowest_first(
    pg: Connection, ledger: Ledger, run: str
) -> None:
    free_slices(pg, ledger, 3)
    taken = [claim(pg, ledger, slot=slot) for slot in range(4)]
    assert [held and (held.number, held.epoch) for held in taken] == [(1, 2), (2, 2), (3, 2), None]


@pytest.mark.parametrize("phase", SlicePhase)
def test_only_slices_of_the_phase_are_taken(
    pg: Connection, ledger: Ledger, run: str, phase: SlicePhase
) -> None:
    free_slices(pg, ledger, 1)
    pg.execute("UPDATE backfill.slice SET phase = %s", [str(phase)])
    for other in SlicePhase:
        if other is not phase:
            assert claim(pg, ledger, slot=0, phase=other) is None
    held = claim(pg, ledger, slot=0, phase=phase)
    assert held is not None
    assert held.phase is phase


def test_two_claimers_never_get_the_same_slice(
    db_url: str, pg: Connection, ledger: Ledger, run: str
) -> None:
    free_slices(pg, ledger, 60)
    start = threading.Barrier(6)

    def contend(slot: int) -> list[tuple[int, int]]:
        mine = []
        with connect(db_url) as conn:
            start.wait()
            while (held := claim(conn, ledger, slot=slot, holder=f"w{slot}")) is not None:
                mine.append((held.number, held.epoch))
                conn.execute(
                    "UPDATE backfill.slice SET phase = 'done', slot = NULL WHERE number = %s",
                    [held.number],
                )
        return mine

    with ThreadPoolExecutor(6) as pool:
        taken = [one for mine in pool.map(contend, range(6)) for one in mine]
    assert sorted(taken) == [(number, 2) for number in range(1, 61)]


def test_a_lapsed_lease_is_taken_over_and_the_old_holder_can_do_nothing(
    pg: Connection, ledger: Ledger, run: str
) -> None:
    """I3: under an old epoch neither a batch, nor a heartbeat, nor a return has an effect."""
    old = placed(pg, ledger, 1, slot=0, lease=LAPSED)
    new = claim(pg, ledger, slot=1)
    assert new is not None
    assert (new.number, new.epoch) == (old.number, old.epoch + 1)
    assert not slices.heartbeat(pg, ledger, old, lease_seconds=LONG)
    assert not slices.release(pg, ledger, old, failed=True)
    with transaction(pg):
        assert slices.lock(pg, ledger, old) is None
    assert row(pg, 1, "holder, slot, epoch, attempts") == ("b", 1, 2, 0)
    with transaction(pg):
        assert slices.lock(pg, ledger, new) == (new, "running")


def test_an_open_batch_keeps_its_slice_whatever_the_lease_says(
    pg: Connection, ledger: Ledger, run: str, db_url: str
) -> None:
    held = placed(pg, ledger, 1, slot=0, lease=LAPSED)
    placed(pg, ledger, 2, slot=1, lease=LAPSED)
    with batch_of(db_url, ledger, held):
        taken = claim(pg, ledger, slot=2)
        assert taken is not None
        assert taken.number == 2
        assert claim(pg, ledger, slot=3) is None
    assert claim(pg, ledger, slot=3) is not None


# --- bounds (I5) ---------------------------------------------------------------------------------


def test_a_statement_by_itself_waits_no_longer_than_its_connection_allows(
    pg: Connection, ledger: Ledger, run: str, db_url: str
) -> None:
    free_slices(pg, ledger, 1)
    bounds = Limits(lock_timeout_seconds=0.2, statement_timeout_seconds=5.0)
    with connect(db_url, limits=bounds) as worker:
        with transaction(pg):
            pg.execute("LOCK TABLE backfill.slice IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(psycopg.errors.LockNotAvailable) as refused:
                claim(worker, ledger, slot=0)
        assert classify(refused.value, writing=False).kind is FaultKind.TRANSIENT
        assert claim(worker, ledger, slot=0) is not None


def test_every_connection_bounds_its_statements(pg: Connection) -> None:
    shown = "SELECT current_setting('lock_timeout'), current_setting('statement_timeout')"
    assert pg.execute(shown).fetchone() == ("35s", "5min")
    with transaction(pg, READ_LIMITS):
        assert pg.execute(shown).fetchone() == ("2s", "30s")
    assert pg.execute(shown).fetchone() == ("35s", "5min")


def test_a_sweep_takes_the_slice_that_has_waited_longest(
    pg: Connection, ledger: Ledger, run: str
) -> None:
    """I2: or the first ones, whose rows stay locked, would come again before the last is tried."""
    free_slices(pg, ledger, 3)
    pg.execute(
        "UPDATE backfill.slice SET phase = 'sweep',"
        " not_before = clock_timestamp() - make_interval(mins => number)"
    )
    taken = [claim(pg, ledger, slot=slot, phase=SlicePhase.SWEEP) for slot in range(3)]
    assert [held and held.number for held in taken] == [3, 2, 1]
