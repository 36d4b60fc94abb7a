"""The job's hooks: when they are called, and what follows when they raise."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import psycopg
import pytest

from backfill.engine.begin import begin
from backfill.engine.work import work
from backfill.errors import ProjectError
from backfill.job import Job, Options, Row, Sql, Table, Update
from backfill.model import BatchInfo, RunInfo
from backfill.pg.hooks import Hook, take_hook
from backfill.pg.ledger import Run
from tests.engine.factory import BOUND_SECONDS, QUICK, Worksite, until

BY_TEN = Options(batch_rows=10)


class Hooked(Job):
    """Raises in the hook that is named, once."""

    source = Table("t")
    transform = Sql(n="n + 1")
    target = Update()
    fails_in: ClassVar[set[str]] = set()
    called: ClassVar[list[str]] = []

    def _hook(self, name: str) -> None:
        self.called.append(name)
        if name in self.fails_in:
            self.fails_in.remove(name)
            raise LookupError("the feature flag is not set")

    def before_run(self, run: RunInfo) -> None:
        assert run.id == self.run.id
        self._hook("before_run")

    def after_batch(self, batch: BatchInfo) -> None:
        self._hook("after_batch")

    def after_run(self, run: RunInfo) -> None:
        assert run.counts.written == 20
        self._hook("after_run")


@pytest.mark.parametrize("hook", ["before_run", "after_batch", "after_run"])
def test_a_hook_that_raises_pauses_the_run_and_is_called_again(site: Worksite, hook: str) -> None:
    Hooked.fails_in = {hook}
    Hooked.called.clear()
    site.numbers(20)
    run = site.enqueue(Hooked, options=BY_TEN)
    paused = site.work(Hooked, run)
    assert paused.state == "paused"
    told = f"Hooked.{hook} raised LookupError: the feature flag is not set"
    assert paused.why_paused == f"error: {told}"
    site.lift(run)
    assert site.work(Hooked, run).state == "succeeded"
    assert site.rows("SELECT DISTINCT n FROM t") == [(1,)]
    once = ["before_run", "after_batch", "after_batch", "after_run"]
    if hook != "after_batch":  # the batch had committed: it is not repeated
        once.insert(once.index(hook), hook)
    assert Hooked.called == once


@pytest.mark.parametrize("odd", ["\udce9", "\x00"], ids=["half a surrogate pair", "NUL"])
def test_what_cannot_be_stored_in_a_reason_is_marked(site: Worksite, odd: str) -> None:
    """A file's name that is no UTF-8, as Python tells it; without a pause nobody would know."""

    class Odd(Hooked):
        def before_run(self, run: RunInfo) -> None:
            raise OSError(f"cannot open r{odd}sum.csv")

    site.numbers(3)
    paused = site.work(Odd, site.enqueue(Odd))
    assert paused.state == "paused"
    told = paused.why_paused.removeprefix("error: Odd.before_run raised OSError: ")
    assert re.fullmatch("cannot open r[?�]sum.csv", told)
    assert any(told in str(event.detail.get("reason")) for event in paused.events)


class LooksUp(Job):
    """Reads a look-up table once, before the first row."""

    source = Table("t", columns=["id"])
    target = Update("label")
    left: ClassVar[list[str]] = []

    def setup(self, conn: psycopg.Connection[Any]) -> None:
        self.names: dict[int, str] = dict(conn.execute("SELECT id, name FROM look_up").fetchall())
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), conn.transaction():
            conn.execute("DELETE FROM look_up")

    def transform(self, row: Row) -> dict[str, object]:
        return {"label": self.names[row.id % 3]}

    def teardown(self) -> None:
        self.left.append(self.run.id)


def test_setup_reads_look_ups_and_cannot_write_and_teardown_ends_it(site: Worksite) -> None:
    site.numbers(30)
    site.execute(
        "CREATE TABLE look_up AS SELECT i AS id, 'no. ' || i AS name FROM generate_series(0, 2) i"
    )
    done = site.run(LooksUp, threads=2, options=BY_TEN)
    assert done.state == "succeeded"
    assert site.value("SELECT count(*) FROM t WHERE label = 'no. ' || mod(id, 3)") == 30
    assert LooksUp.left == [done.run.id] * 2


def test_a_setup_that_raises_names_the_job_and_leaves_no_connection_behind(site: Worksite) -> None:
    """A session that stays would hold its snapshot and its place among max_connections (I5)."""
    site.numbers(3)
    run = site.enqueue(LooksUp)  # there is no table look_up
    sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    before = site.value(sessions)
    with pytest.raises(ProjectError, match=r"LooksUp\.setup raised UndefinedTable"):
        site.bench(LooksUp, run)
    until(lambda: site.value(sessions) == before, what="the connection to be closed")


def test_a_setup_that_takes_too_long_or_fails_elsewhere_is_the_jobs_fault(site: Worksite) -> None:
    """Said to be the database that is away, it would be tried for ever, and nobody told."""
    site.numbers(3)
    site.numbers(3, name="other")

    class Slow(LooksUp):
        def setup(self, conn: psycopg.Connection[Any]) -> None:
            conn.execute("SET LOCAL statement_timeout = '50ms'")
            conn.execute("SELECT pg_sleep(10)")

    class Elsewhere(LooksUp):
        source = Table("other", columns=["id"])

        def setup(self, conn: psycopg.Connection[Any]) -> None:
            psycopg.connect("postgresql://nobody@127.0.0.1:1/lookups", connect_timeout=1)

    with pytest.raises(ProjectError, match=r"Slow\.setup raised QueryCanceled"):
        site.bench(Slow, site.enqueue(Slow))
    with pytest.raises(ProjectError, match=r"Elsewhere\.setup raised OperationalError"):
        site.bench(Elsewhere, site.enqueue(Elsewhere))


def test_a_setup_whose_own_connection_fails_for_now_is_tried_again(site: Worksite) -> None:
    site.numbers(3)
    site.numbers(3, name="other")

    class Cut(LooksUp):
        def setup(self, conn: psycopg.Connection[Any]) -> None:
            site.execute(f"SELECT pg_terminate_backend({conn.info.backend_pid})")
            conn.execute("SELECT FROM t")

    class Waits(LooksUp):
        source = Table("other", columns=["id"])

        def setup(self, conn: psycopg.Connection[Any]) -> None:
            conn.execute("SET LOCAL lock_timeout = '50ms'")
            with site.session() as other:
                other.execute("LOCK TABLE t")
                conn.execute("SELECT FROM t")

    with pytest.raises(psycopg.OperationalError):
        site.bench(Cut, site.enqueue(Cut))
    with pytest.raises(psycopg.errors.LockNotAvailable):
        site.bench(Waits, site.enqueue(Waits))


def test_what_postgresql_says_to_a_job_of_its_own_may_quote_a_row_and_is_left_out(
    site: Worksite,
) -> None:
    """The reason goes to logs, to Redis and to Flower."""
    site.numbers(3)
    site.execute("UPDATE t SET label = 'ada@example.org'")

    class Casts(LooksUp):
        def setup(self, conn: psycopg.Connection[Any]) -> None:
            conn.execute("SELECT label::int FROM t")

    with pytest.raises(ProjectError, match=r"setup raised InvalidText") as refused:
        site.bench(Casts, site.enqueue(Casts))
    assert "ada@" not in refused.value.message

    class Asks(Hooked):
        def before_run(self, run: RunInfo) -> None:
            with psycopg.connect(site.url) as conn:
                conn.execute("SELECT label::int FROM t")

    paused = site.run(Asks)
    assert paused.why_paused.startswith("error: Asks.before_run raised InvalidText")
    assert "ada@" not in paused.why_paused


BRIEFLY = replace(QUICK, lease_seconds=0.3)


class Slow(Job):
    """Stands in the hook that is named until it is let go on."""

    source = Table("t")
    transform = Sql(n="n + 1")
    target = Update()
    stands_in = ""
    called: ClassVar[list[str]] = []
    is_there = threading.Event()
    goes_on = threading.Event()

    def _hook(self, name: str) -> None:
        self.called.append(name)
        if name == self.stands_in:
            self.is_there.set()
            assert self.goes_on.wait(BOUND_SECONDS)

    def before_run(self, run: RunInfo) -> None:
        self._hook("before_run")

    def after_run(self, run: RunInfo) -> None:
        self._hook("after_run")


def _standing_in(hook: str) -> None:
    Slow.stands_in = hook
    Slow.called.clear()
    Slow.is_there.clear()
    Slow.goes_on.clear()


def _other_begins(site: Worksite, run: Run) -> None:
    bench = site.bench(Slow, run, stopping=lambda: True)
    assert begin(bench).state == "queued"
    bench.close()


def _other_works(site: Worksite, run: Run) -> None:
    bench = site.bench(Slow, run)
    assert work(bench, slot=1, budget_seconds=0.2).state == "verifying"
    bench.close()


@pytest.mark.parametrize(
    ("hook", "slot", "other"),
    [("before_run", Hook.BEFORE_RUN, _other_begins), ("after_run", Hook.AFTER_RUN, _other_works)],
)
def test_a_hook_has_one_caller_at_a_time_however_long_it_takes(
    site: Worksite, hook: str, slot: Hook, other: Callable[[Worksite, Run], None]
) -> None:
    """A `before_run` that empties the target would delete what the other slot had written."""
    _standing_in(hook)
    site.numbers(20)
    run = site.enqueue(Slow)
    with site.crew(Slow, run, settings=BRIEFLY):
        assert Slow.is_there.wait(BOUND_SECONDS)
        first_end = "SELECT sent_at FROM backfill.slot WHERE run = %s AND slot = %s"
        ends = site.value(first_end, run.id, int(slot))
        until(
            lambda: site.value("SELECT clock_timestamp() > %s", ends),
            what="the lease to have run out, had nobody renewed it",
        )
        other(site, run)
        assert Slow.called.count(hook) == 1
        Slow.goes_on.set()
    assert site.outcome(run).state == "succeeded"
    assert Slow.called == ["before_run", "after_run"]


@pytest.mark.parametrize("hook", list(Hook))
def test_a_hook_whose_caller_died_is_called_again_when_its_lease_has_run_out(
    site: Worksite, hook: Hook
) -> None:
    _standing_in("none")
    site.numbers(20)
    run = site.enqueue(Slow)
    until_taken = take_hook(site.conn, site.ledger, run.id, hook, seconds=0.5)
    assert until_taken is not None
    done = site.work(Slow, run, settings=BRIEFLY)
    assert (done.state, Slow.called) == ("succeeded", ["before_run", "after_run"])
    ended = done.run.started_at if hook is Hook.BEFORE_RUN else done.run.finished_at
    assert ended is not None
    assert ended > until_taken


def test_a_caller_that_lost_the_lease_of_before_run_does_not_set_the_run_going(
    site: Worksite,
) -> None:
    """It stood still for too long: whoever took the lease may be in the hook now."""
    _standing_in("before_run")
    site.numbers(20)
    run = site.enqueue(Slow)
    bench = site.bench(Slow, run, stopping=lambda: True)
    caller = threading.Thread(target=begin, args=[bench])
    caller.start()
    assert Slow.is_there.wait(BOUND_SECONDS)
    site.execute(
        "UPDATE backfill.slot SET sent_at = clock_timestamp() - interval '1 s' WHERE slot = %s",
        int(Hook.BEFORE_RUN),
    )
    assert take_hook(site.conn, site.ledger, run.id, Hook.BEFORE_RUN, seconds=0.5)
    Slow.goes_on.set()
    caller.join(BOUND_SECONDS)
    bench.close()
    assert site.outcome(run).state == "queued"
    assert site.work(Slow, run).state == "succeeded"
    assert Slow.called == ["before_run", "before_run", "after_run"]


def test_a_long_hook_keeps_its_lease_when_its_connection_is_lost(site: Worksite) -> None:
    _standing_in("before_run")
    site.numbers(20)
    run = site.enqueue(Slow)
    with site.crew(Slow, run):
        assert Slow.is_there.wait(BOUND_SECONDS)
        ended = site.rows(
            "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert len(ended) == 1
        ends = site.value("SELECT clock_timestamp() + interval '1.5 s'")
        until(lambda: site.value("SELECT clock_timestamp() > %s", ends), what="a lease's time")
        _other_begins(site, run)
        Slow.goes_on.set()
    assert Slow.called == ["before_run", "after_run"]
