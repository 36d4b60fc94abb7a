"""Holding a slice: recording, renewing, returning, and being told that it is another's (I1, I3)."""

from __future__ import annotations

import psycopg
import pytest

from backfill.model import Counts, SlicePhase
from backfill.pg import slices
from backfill.pg.connect import Connection, transaction
from backfill.pg.ledger import Ledger
from tests.pg.holding import LAPSED, LONG, claim, placed, row


def test_a_returned_slice_is_free_at_once_or_after_the_wait(
    pg: Connection, ledger: Ledger, run: str
) -> None:
    held = placed(pg, ledger, 1, slot=0)
    assert slices.release(pg, ledger, held)
    assert not slices.release(pg, ledger, held)
    retaken = claim(pg, ledger, slot=0)
    assert retaken is not None
    assert slices.release(pg, ledger, retaken, wait_seconds=LONG, failed=True)
    assert claim(pg, ledger, slot=0) is None
    assert row(pg, 1, "attempts, not_before > clock_timestamp()") == (1, True)
    pg.execute("UPDATE backfill.slice SET not_before = clock_timestamp()")
    again = claim(pg, ledger, slot=0)
    assert again is not None
    assert again.attempts == 1


def test_a_heartbeat_renews_the_lease_of_its_holder(
    pg: Connection, ledger: Ledger, run: str
) -> None:
    held = placed(pg, ledger, 1, slot=0, lease=LAPSED)
    assert slices.heartbeat(pg, ledger, held, lease_seconds=LONG)
    assert row(pg, 1, "lease_until > clock_timestamp() + interval '9 min'") == (True,)
    assert claim(pg, ledger, slot=1) is None
    assert slices.release(pg, ledger, held)
    assert not slices.heartbeat(pg, ledger, held, lease_seconds=LONG)


# --- recording -----------------------------------------------------------------------------------


def test_a_record_adds_to_the_counts_and_renews_the_lease(
    pg: Connection, ledger: Ledger, run: str
) -> None:
    slices.release(pg, ledger, placed(pg, ledger, 1, slot=0), failed=True)
    retaken = claim(pg, ledger, slot=0, lease=LAPSED)
    assert retaken is not None
    held = retaken
    added = Counts(paged=6, written=1, unchanged=1, skipped=1, quarantined=1, suppressed=1, gone=1)
    for times in (1, 2):
        with transaction(pg):
            slices.lock(pg, ledger, held)
            held = slices.record(
                pg,
                ledger,
                held,
                cursor=(str(times),),
                added=added,
                phase=SlicePhase.WALK,
                lease_seconds=LONG,
            )
    assert held.counts == added + added
    assert (held.cursor, held.attempts) == (("2",), 0)
    assert row(pg, 1, "lease_until > clock_timestamp()") == (True,)


def test_a_record_that_does_not_add_up_is_refused_with_its_batch(
    pg: Connection, ledger: Ledger, run: str
) -> None:
    held = placed(pg, ledger, 1, slot=0)
    pg.execute("CREATE TABLE t (n int)")

    def batch() -> None:
        with transaction(pg):
            slices.lock(pg, ledger, held)
            pg.execute("INSERT INTO t VALUES (1)")
            slices.record(
                pg,
                ledger,
                held,
                cursor=("1",),
                added=Counts(paged=2, written=1),
                phase=SlicePhase.WALK,
                lease_seconds=LONG,
            )

    with pytest.raises(psycopg.errors.CheckViolation, match="every_key_has_one_outcome"):
        batch()
    assert pg.execute("SELECT count(*) FROM t").fetchone() == (0,)
    assert row(pg, 1, "cursor, paged") == (None, 0)


def test_only_progress_moves_the_time_of_progress(pg: Connection, ledger: Ledger, run: str) -> None:
    """A stuck sweep is told by it."""
    held = placed(pg, ledger, 1, slot=0)
    pg.execute("UPDATE backfill.slice SET progress_at = '-infinity'")

    def record(added: Counts, cursor: str | None) -> bool:
        nonlocal held
        with transaction(pg):
            slices.lock(pg, ledger, held)
            held = slices.record(
                pg,
                ledger,
                held,
                cursor=None if cursor is None else (cursor,),
                added=added,
                phase=SlicePhase.WALK,
                lease_seconds=LONG,
            )
        moved = row(pg, 1, "progress_at > '-infinity'") == (True,)
        pg.execute("UPDATE backfill.slice SET progress_at = '-infinity'")
        return moved

    assert not record(Counts(), None)
    assert record(Counts(), "1")
    assert record(Counts(paged=1, written=1), "1")
    assert not record(Counts(paged=1, deferred=1), "1")
