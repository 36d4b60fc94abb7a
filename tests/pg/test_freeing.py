"""Taking slices from holders that ended, are gone or hang; those at work are spared (I3)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from backfill.model import Counts, SlicePhase
from backfill.pg import freeing, slices
from backfill.pg.connect import Connection, application_name, connect, transaction
from backfill.pg.ledger import Ledger
from tests.pg.holding import LAPSED, LONG, batch_of, hung_batch_of, placed, row, until


def test_raising_the_epochs_takes_every_slice_from_its_holder(
    pg: Connection, ledger: Ledger, run: str
) -> None:
    held = [placed(pg, ledger, number, slot=number) for number in (1, 2, 3)]
    pg.execute("UPDATE backfill.slice SET phase = 'done' WHERE number = 3")
    slices.raise_epochs(pg, ledger, run)
    for old in held[:2]:
        assert row(pg, old.number, "epoch, holder, slot, lease_until") == (2, None, None, None)
        assert slices.lock(pg, ledger, old) is None
    assert row(pg, 3, "epoch, holder") == (1, "a")


def test_raising_the_epochs_waits_for_the_batch_in_hand(
    pg: Connection, ledger: Ledger, run: str, db_url: str
) -> None:
    held = placed(pg, ledger, 1, slot=0)
    with ThreadPoolExecutor(1) as pool, connect(db_url) as watcher:
        with batch_of(db_url, ledger, held) as batch:
            raising = pool.submit(slices.raise_epochs, pg, ledger, run)
            until(
                lambda: (
                    watcher.execute(
                        "SELECT FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'",
                        [pg.info.backend_pid],
                    ).rowcount
                )
            )
            assert not raising.done()
            slices.record(
                batch,
                ledger,
                held,
                cursor=("5",),
                added=Counts(paged=5, written=5),
                phase=SlicePhase.WALK,
                lease_seconds=LONG,
            )
        raising.result(30)
    assert row(pg, 1, "epoch, holder, written") == (2, None, 5)


def test_lapsed_slices_are_freed_and_said_and_locked_ones_are_passed_by(
    pg: Connection, ledger: Ledger, run: str, db_url: str
) -> None:
    lapsed = placed(pg, ledger, 1, slot=0, lease=LAPSED, holder="gone")
    hung = placed(pg, ledger, 2, slot=1, lease=LAPSED, holder="hung")
    placed(pg, ledger, 3, slot=2)
    assert slices.release(pg, ledger, placed(pg, ledger, 4, slot=3))
    with batch_of(db_url, ledger, hung):
        freed, stuck = freeing.free_lapsed(pg, ledger)
        told = [(one.run, one.number, one.epoch, one.holder) for one in (*freed, *stuck)]
        assert (len(freed), len(stuck)) == (1, 1)
        assert told == [(run, 1, lapsed.epoch, "gone"), (run, 2, hung.epoch, "hung")]
        assert row(pg, 1, "epoch, holder, slot, lease_until") == (2, None, None, None)
        assert row(pg, 2, "epoch, holder, slot") == (1, "hung", 1)
        assert row(pg, 3, "epoch, holder, slot") == (1, "a", 2)
        assert row(pg, 4, "epoch, holder, slot") == (1, None, None)
    freed, stuck = freeing.free_lapsed(pg, ledger)
    assert ([one.number for one in freed], stuck) == ([2], [])


def test_a_batch_that_renews_its_lease_meanwhile_is_not_taken_for_lapsed(
    pg: Connection, ledger: Ledger, run: str, db_url: str
) -> None:
    held = placed(pg, ledger, 1, slot=0, lease=LAPSED)
    with batch_of(db_url, ledger, held) as batch:
        slices.record(
            batch,
            ledger,
            held,
            cursor=("1",),
            added=Counts(paged=1, written=1),
            phase=SlicePhase.WALK,
            lease_seconds=LONG,
        )
    assert freeing.free_lapsed(pg, ledger) == ([], [])


def test_slices_of_one_run_can_be_freed_alone(pg: Connection, ledger: Ledger, run: str) -> None:
    placed(pg, ledger, 1, slot=0, lease=LAPSED)
    assert freeing.free_lapsed(pg, ledger, "other-abcde") == ([], [])
    freed, _ = freeing.free_lapsed(pg, ledger, run)
    assert [one.number for one in freed] == [1]


def test_a_hung_holders_backend_is_ended_and_its_slice_is_free(
    pg: Connection, ledger: Ledger, run: str, db_url: str
) -> None:
    """I3: a process that was stopped while it held the row's lock."""
    held = placed(pg, ledger, 1, slot=0, lease=LAPSED)
    name = application_name(run, 1, held.epoch)
    with hung_batch_of(db_url, ledger, held) as batch:
        pid = batch.info.backend_pid
        assert freeing.terminate_backends(pg, ["backfill of nobody"], busy_seconds=LONG) == []
        assert freeing.terminate_backends(pg, [name], busy_seconds=LONG) == [pid]
        until(lambda: freeing.free_lapsed(pg, ledger)[0])
        with pytest.raises(psycopg.OperationalError):
            batch.execute("SELECT 1")
    assert row(pg, 1, "epoch, holder") == (2, None)


def test_a_backend_that_is_at_work_is_spared_until_it_took_too_long(
    pg: Connection, ledger: Ledger, run: str, db_url: str
) -> None:
    held = placed(pg, ledger, 1, slot=0, lease=LAPSED)
    name = application_name(run, 1, held.epoch)
    with ThreadPoolExecutor(1) as pool, hung_batch_of(db_url, ledger, held) as batch:
        pid = batch.info.backend_pid
        working = pool.submit(batch.execute, "SELECT pg_sleep(25)")
        until(
            lambda: (
                pg.execute(
                    "SELECT FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'", [pid]
                ).rowcount
            )
        )
        assert freeing.terminate_backends(pg, [name], busy_seconds=LONG) == []
        assert not working.done()
        assert freeing.terminate_backends(pg, [name], busy_seconds=0.0) == [pid]
        with pytest.raises(psycopg.OperationalError):
            working.result(30)


def test_only_backends_of_the_same_database_are_ended(
    pg: Connection, bare_url: str, run: str
) -> None:
    with connect(bare_url) as elsewhere, transaction(elsewhere, name=application_name(run, 1, 1)):
        elsewhere.execute("SELECT 1")
        ended = freeing.terminate_backends(pg, [application_name(run, 1, 1)], busy_seconds=0.0)
        assert ended == []
        elsewhere.execute("SELECT 1")
