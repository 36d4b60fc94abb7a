"""The job's hooks: when they are called, and what follows when they raise."""

from __future__ import annotations

from typing import Any, ClassVar

import psycopg
import pytest

from backfill.errors import ProjectError
from backfill.job import Job, Options, Row, Sql, Table, Update
from backfill.model import BatchInfo, RunInfo
from tests.engine.factory import Worksite, until

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
