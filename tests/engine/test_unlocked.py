"""Rows read without locks: no transaction is open in the transform, and what changed is not lost.

What happens to a row between the reading and the write is done by the transform itself, through a
session of its own: it stands for the application.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from backfill.engine import beat, optimistic
from backfill.engine.pausing import pause_for_lapses
from backfill.engine.work import work
from backfill.errors import DeclarationError, Quarantine, RetryLater, UsageError
from backfill.job import Call, Delete, Insert, Job, Options, Row, Sql, Table, Update
from backfill.model import Counts
from backfill.pg import freeing, slices
from tests.engine.factory import QUICK, AtVisit, Worksite, until
from tests.engine.jobs import IncrementInPython, InsertUnlocked

OPTIMISTIC = Options(batch_rows=10, slice_rows=40, lock="optimistic")


class Meanwhile(Job, abstract=True):
    """Asks the test for each row: `during(id)`, outside any transaction."""

    during: Callable[[Row], object] = staticmethod(lambda _: None)
    options = OPTIMISTIC


class Relabel(Meanwhile):
    source = Table("t", columns=["n"])
    target = Update("label")

    def transform(self, row: Row) -> dict[str, object]:
        type(self).during(row)
        return {"label": f"was {row.n}"}


class RelabelTodo(Relabel):
    source = Table("t", columns=["n"], todo="label IS NULL")


class Drop(Meanwhile):
    source = Table("t", columns=["n"])
    target = Delete()

    def transform(self, row: Row) -> bool:
        type(self).during(row)
        return bool(row.n == 0 and row.id % 2)


class Announce(Meanwhile):
    source = Table("t", columns=["n"])
    target = Call()

    def transform(self, row: Row) -> object:
        return type(self).during(row)


class AnnounceMany(Meanwhile):
    source = Table("t", columns=["n"], todo="NOT done")
    target = Call()

    def transform_batch(self, rows: Sequence[Row]) -> object:
        return [type(self).during(row) for row in rows][:1]


@contextmanager
def meanwhile(job: type[Meanwhile], during: Callable[[Row], object]) -> Iterator[None]:
    """Let a job's transform do this."""
    job.during = staticmethod(during)
    try:
        yield
    finally:
        job.during = staticmethod(lambda _: None)


def _changing(
    site: Worksite, changes: Mapping[int, str], *, times: int = 1
) -> Callable[[Row], None]:
    """Do a statement the first times that the transform meets the row."""
    left = dict.fromkeys(changes, times)

    def during(row: Row) -> None:
        if left.get(row.id):
            left[row.id] -= 1
            site.execute(changes[row.id])  # waits for nobody: the row is not locked

    return during


# --- what changed meanwhile --------------------------------------------------------------------


def test_what_was_read_and_changed_is_deferred_and_read_anew(site: Worksite) -> None:
    site.numbers(100)
    changes = {
        7: "UPDATE t SET n = 5 WHERE id = 7",
        8: "UPDATE t SET done = true WHERE id = 8",  # was not read: nothing has changed
        20: "DELETE FROM t WHERE id = 20",
        33: "UPDATE t SET n = n WHERE id = 33",
    }
    with meanwhile(Relabel, _changing(site, changes)):
        done = site.run(Relabel)
    assert done.state == "succeeded"
    assert done.counts == Counts(paged=100, written=99, gone=1)
    assert done.event("run.sweeping").detail["deferred"] == 1
    assert site.rows("SELECT label, array_agg(id) FROM t WHERE label <> 'was 0' GROUP BY 1") == [
        ("was 5", [7])
    ]


def test_a_slice_with_quarantined_rows_is_walked_again_without_them(site: Worksite) -> None:
    """A further pass asks the ledger for the key as the table is named, schema and all."""
    site.numbers(30)

    def during(row: Row) -> None:
        if row.id == 3:
            raise Quarantine("not this one")
        if row.id == 30:  # behind the cursor
            site.execute("UPDATE t SET label = NULL WHERE id IN (5, 6)")

    class Qualified(RelabelTodo):
        source = Table("t", columns=["n"], todo="public.t.label IS NULL")

    with meanwhile(Qualified, during):
        done = site.run(Qualified, options=replace(OPTIMISTIC, quarantine_share=1.0))
    assert [pause.cause for pause in done.pauses] == ["quarantine"]
    assert done.run.passes == 1
    assert (done.counts.written, done.counts.quarantined) == (31, 1)
    assert site.rows("SELECT id FROM t WHERE label IS NULL") == [(3,)]


def test_a_row_that_is_not_ours_any_more_is_gone(site: Worksite) -> None:
    site.numbers(20)
    changes = {3: "UPDATE t SET label = 'theirs' WHERE id = 3"}
    with meanwhile(RelabelTodo, _changing(site, changes)):
        done = site.run(RelabelTodo)
    assert done.counts == Counts(paged=20, written=19, gone=1)
    assert site.value("SELECT label FROM t WHERE id = 3") == "theirs"


def test_a_row_that_changes_again_and_again_is_taken_with_its_lock(site: Worksite) -> None:
    """After so many changes the transform runs under the lock, where nobody can change the row."""
    site.numbers(10)
    seen: list[int] = []

    def during(row: Row) -> None:
        if row.id != 4:
            return
        seen.append(row.n)
        with site.session() as other:
            other.execute("SET lock_timeout = '20ms'")
            try:
                other.execute("UPDATE t SET n = n + 1 WHERE id = 4")
            except psycopg.errors.LockNotAvailable:
                return
            other.commit()

    with meanwhile(Relabel, during):
        done = site.run(Relabel)
    assert done.counts == Counts(paged=10, written=10)
    assert seen == list(range(len(seen)))
    assert site.rows("SELECT n, label FROM t WHERE id = 4") == [(seen[-1], f"was {seen[-1]}")]


def test_a_row_that_another_holds_is_deferred_and_its_value_is_not_lost(site: Worksite) -> None:
    site.numbers(10)
    run = site.begun(IncrementInPython, options=OPTIMISTIC)
    with site.session() as other:
        other.execute("UPDATE t SET n = 1 WHERE id = 2")
        with site.crew(IncrementInPython, run):
            site.until_state(run, "sweeping")
            other.commit()
    done = site.outcome(run)
    assert done.counts == Counts(paged=10, written=10)
    assert site.rows("SELECT n, count(*) FROM t GROUP BY n ORDER BY n") == [(1, 9), (2, 1)]


@pytest.mark.parametrize(
    ("type_", "before", "after"),
    [
        ("json", "'{}'", "'[]'"),
        ("point", "'(1,2)'", "'(1,3)'"),
        ("text", "NULL", "''"),
        ("numeric", "1.0", "1.00"),
        ("text[]", "'{a}'", "'{a,NULL}'"),
        ("float8", "'0'", "'-0'"),
    ],
)
def test_every_type_can_be_compared(site: Worksite, type_: str, before: str, after: str) -> None:
    site.numbers(3)
    site.execute(f"ALTER TABLE t ADD COLUMN x {type_} DEFAULT {before}")

    class Compare(Relabel):
        source = Table("t", columns=["n", "x"])

    with meanwhile(Compare, _changing(site, {2: f"UPDATE t SET x = {after} WHERE id = 2"})):
        done = site.run(Compare)
    assert done.counts == Counts(paged=3, written=3)
    assert done.event("run.sweeping").detail["deferred"] == 1


def test_deleting_leaves_a_row_that_changed_its_mind(site: Worksite) -> None:
    site.numbers(20)
    with meanwhile(Drop, _changing(site, {5: "UPDATE t SET n = 1 WHERE id = 5"})):
        done = site.run(Drop)
    assert done.counts == Counts(paged=20, written=9, unchanged=11)
    assert site.value("SELECT array_agg(id ORDER BY id) FROM t WHERE mod(id, 2) = 1") == [5]


def test_inserting_several_rows_of_one(site: Worksite) -> None:
    site.numbers(50)
    site.execute("CREATE TABLE copies (id bigint, part int, PRIMARY KEY (id, part))")
    site.execute("INSERT INTO copies VALUES (13, 2)")
    done = site.run(InsertUnlocked, options=OPTIMISTIC)
    assert done.counts == Counts(paged=50, written=49, quarantined=1)
    assert done.quarantine[0].key == ("13",)
    assert site.value("SELECT count(*) FROM copies") == 99


# --- no transaction, a lease, a stop ------------------------------------------------------------


def test_no_transaction_is_open_while_the_transform_works(site: Worksite) -> None:
    """I5. Nobody has a lock on the table, and no other transaction of ours is under way."""
    site.numbers(30)
    found: list[tuple[object, ...]] = []

    def during(_: Row) -> None:
        assert bench.conn.info.transaction_status == TransactionStatus.IDLE
        found.extend(
            site.rows(
                "SELECT pid, state FROM pg_stat_activity WHERE datname = current_database()"
                " AND xact_start IS NOT NULL AND pid <> pg_backend_pid()"
            )
        )

    run = site.enqueue(Relabel)
    bench = site.bench(Relabel, run)
    with meanwhile(Relabel, during):
        work(bench, slot=0)
    bench.conn.close()
    assert site.outcome(run).state == "succeeded"
    assert found == []


def test_a_transform_slower_than_the_lease_keeps_its_slice(site: Worksite) -> None:
    """I3: renewed in the midst of a row, too. A second worker finds nothing to take."""
    site.numbers(2)
    run = site.enqueue(Announce)
    settings = replace(QUICK, lease_seconds=0.3)
    calls: list[int] = []

    def during(row: Row) -> None:
        calls.append(row.id)
        ends = site.value("SELECT clock_timestamp() + interval '0.6 s'")
        until(
            lambda: (
                site.value("SELECT clock_timestamp() > %s", ends)
                and site.value(
                    "SELECT bool_and(lease_until > clock_timestamp()) FROM backfill.slice"
                )
            ),
            what="the lease to be renewed after its first end",
        )

    with meanwhile(Announce, during):
        done = site.work(Announce, run, threads=2, settings=settings)
    assert done.counts == Counts(paged=2, written=2)
    assert sorted(calls) == [1, 2]
    assert site.value("SELECT max(epoch) FROM backfill.slice") == 1


def test_a_call_that_never_comes_back_does_not_keep_its_slice(
    site: Worksite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beat, "LONGEST_CALL_SECONDS", 0.2)
    site.numbers(1)
    run = site.enqueue(Announce)
    hangs, calls = threading.Event(), []

    def during(row: Row) -> None:
        calls.append(row.id)
        if len(calls) == 1:
            assert hangs.wait(20)
        else:
            hangs.set()

    settings = replace(QUICK, lease_seconds=0.2)
    with meanwhile(Announce, during):
        done = site.work(Announce, run, threads=2, settings=settings)
    assert done.counts == Counts(paged=1, written=1)
    assert len(calls) == 2


def test_calls_that_never_come_back_in_time_pause_the_run(
    site: Worksite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call for a page of rows that takes too long does so for whoever takes the slice next."""
    monkeypatch.setattr(beat, "LONGEST_CALL_SECONDS", 0.1)
    site.numbers(1)
    run = site.enqueue(Announce)
    calls: list[int] = []

    def reconcile() -> bool:
        freed, _ = freeing.free_lapsed(site.conn, site.ledger)
        pause_for_lapses(site.conn, site.ledger, freed, by="the reconciler")
        return bool(freed)

    def during(row: Row) -> None:
        calls.append(row.id)
        until(reconcile, what="the slice to be taken away")

    with meanwhile(Announce, during):
        paused = site.work(Announce, run, settings=replace(QUICK, lease_seconds=0.3))
    assert paused.state == "paused"
    assert "slice 1 was lost 6 times in a row" in paused.why_paused
    assert "call shorter" in paused.pauses[0].ends
    assert len(calls) == 6


def test_a_slice_that_is_taken_away_is_noticed_and_nothing_is_recorded_twice(
    site: Worksite,
) -> None:
    """I3: under an old epoch nothing is written; the row is called again by the new holder."""
    site.numbers(6)
    run = site.enqueue(Announce, options=replace(OPTIMISTIC, concurrency=1))
    calls: list[int] = []

    def during(row: Row) -> None:
        calls.append(row.id)
        if len(calls) == 2:
            slices.raise_epochs(site.conn, site.ledger, run.id)
            until(
                lambda: not any(t.name == "backfill-beat" for t in threading.enumerate()),
                what="the beat to notice it",
            )

    with meanwhile(Announce, during):
        done = site.work(Announce, run, settings=replace(QUICK, lease_seconds=0.3))
    assert done.counts == Counts(paged=6, written=6)
    assert calls == [1, 2, 1, 2, 3, 4, 5, 6], "it went on with the third row"


def test_a_stop_is_asked_for_between_rows_and_what_is_done_is_written(site: Worksite) -> None:
    site.numbers(10)
    run = site.enqueue(Announce)
    stop = threading.Event()
    calls: list[int] = []

    def during(row: Row) -> None:
        calls.append(row.id)
        if row.id == 3:
            stop.set()

    bench = site.bench(Announce, run, stopping=stop.is_set)
    with meanwhile(Announce, during):
        work(bench, slot=0)
        bench.conn.close()
        assert calls == [1, 2, 3]
        assert site.rows("SELECT cursor, written FROM backfill.slice") == [(["3"], 3)]
        assert site.outcome(run).state == "running"
        done = site.work(Announce, run)
    assert done.counts == Counts(paged=10, written=10)
    assert calls == list(range(1, 11))


def test_a_page_is_given_a_time_so_that_little_is_repeated(
    site: Worksite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimistic, "TRANSFORM_SECONDS", -1.0)
    site.numbers(5)
    done = site.run(Relabel)
    assert done.counts == Counts(paged=5, written=5)
    assert site.value("SELECT batch_rows FROM backfill.slice") == 1


# --- Call ---------------------------------------------------------------------------------------


def test_calls_that_were_made_are_recorded_though_the_run_was_paused_meanwhile(
    site: Worksite,
) -> None:
    site.numbers(10)
    run = site.enqueue(Announce)
    calls: list[int] = []

    def during(row: Row) -> None:
        calls.append(row.id)
        if row.id == 3:
            site.pause(run)

    with meanwhile(Announce, during):
        paused = site.work(Announce, run)
        assert paused.state == "paused"
        assert paused.counts.written == len(calls) == 10
        site.execute("DELETE FROM backfill.pause")
        site.execute("UPDATE backfill.run SET state = 'running'")
        assert site.work(Announce, run).counts == Counts(paged=10, written=10)
    assert len(calls) == 10


def test_an_outage_waits_and_blames_no_row_and_a_row_may_be_refused(site: Worksite) -> None:
    site.numbers(30)
    calls: list[int] = []

    def during(row: Row) -> object:
        calls.append(row.id)
        if row.id == 5 and calls.count(5) < 3:
            raise RetryLater("away", seconds=0.01)
        if row.id == 6:
            raise Quarantine("no such thing")
        if row.id == 7:
            raise KeyError("seven")
        return None  # is ignored, as every answer is

    with meanwhile(Announce, during):
        done = site.run(Announce)
    assert done.state == "paused"
    assert done.counts == Counts(paged=30, written=28, quarantined=2)
    assert [(row.key, row.message) for row in done.quarantine] == [
        (("6",), "no such thing"),
        (("7",), "KeyError: 'seven'"),
    ]
    assert calls.count(5) == 3
    assert {n: calls.count(n) for n in range(1, 31) if calls.count(n) != 1} == {5: 3}


def test_quarantined_calls_are_made_again_when_released(site: Worksite) -> None:
    from backfill.engine import lifecycle

    site.numbers(12)
    is_mended = False

    def during(row: Row) -> None:
        if row.id % 4 == 0 and not is_mended:
            raise Quarantine("not yet")

    with meanwhile(AnnounceMany, during):
        run = site.enqueue(AnnounceMany, options=replace(OPTIMISTIC, batch_rows=5))
        assert site.work(AnnounceMany, run).counts == Counts(paged=12, written=9, quarantined=3)
        is_mended = True
        site.execute("DELETE FROM t WHERE id = 8")
        assert lifecycle.release_quarantine(site.conn, site.ledger, run.id, by="Ada") == 3
        done = site.work(AnnounceMany, run)
    assert done.state == "succeeded", "a todo that stays true is no reason to call again"
    assert done.counts == Counts(paged=12, written=11, gone=1)


def test_a_lost_connection_does_not_repeat_the_calls(site: Worksite) -> None:
    """What was computed is kept in memory for the batch that repeats it."""
    site.numbers(30)
    calls: list[int] = []
    run = site.enqueue(Announce)
    bench = site.bench(Announce, run)
    for point in ("after the transform", "after the write", "after COMMIT"):
        bench.probe = AtVisit(point, 1, bench.conn.close)
        with meanwhile(Announce, lambda row: calls.append(row.id)):
            work(bench, slot=0)
    bench.conn.close()
    assert site.outcome(run).counts == Counts(paged=30, written=30)
    assert calls == list(range(1, 31))


def test_call_needs_no_right_but_to_read(site: Worksite) -> None:
    site.numbers(5)
    site.execute("CREATE ROLE reader")
    site.execute("GRANT SELECT (id, n) ON t TO reader")
    site.execute("GRANT USAGE ON SCHEMA backfill TO reader")
    site.execute("GRANT ALL ON ALL TABLES IN SCHEMA backfill TO reader")
    site.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA backfill TO reader")
    try:
        done = site.work(Announce, site.enqueue(Announce), role="reader")
    finally:
        site.execute("DROP OWNED BY reader")
        site.execute("DROP ROLE reader")
    assert done.counts == Counts(paged=5, written=5)


# --- declarations -------------------------------------------------------------------------------


def test_what_cannot_work_so_is_refused_with_the_remedy(site: Worksite) -> None:
    with pytest.raises(DeclarationError, match=r"Computed: lock='optimistic' has no meaning"):

        class Computed(Job):
            source = Table("t")
            transform = Sql(label="'x'")
            target = Update()
            options = OPTIMISTIC

    with pytest.raises(DeclarationError, match=r"Locked: lock='skip' would hold a transaction"):

        class Locked(Job):
            source = Table("t")
            target = Call()
            options = Options(lock="skip")

            def transform(self, row: Row) -> None: ...

    with pytest.raises(DeclarationError, match=r"InSql: Call\(\) needs a transform in Python"):

        class InSql(Job):
            source = Table("t")
            target = Call()
            transform = Sql(label="'x'")

    with pytest.raises(DeclarationError, match=r"Yields: transform has a yield in it"):

        class Yields(Job):
            source = Table("t")
            target = Call()

            def transform(self, row: Row) -> Iterator[None]:
                yield

    class Copy(Job):
        source = Table("t")
        target = Insert("t2", on_conflict="skip")

    site.numbers(1)
    for job, options in ((Copy, OPTIMISTIC), (Announce, Options(lock="skip"))):
        with pytest.raises(UsageError, match="lock is"):
            site.enqueue(job, options=options)
    assert site.value("SELECT count(*) FROM backfill.run") == 0
