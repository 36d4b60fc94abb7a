"""A slice on which nothing is ever committed pauses the run: nobody tries it for ever (I7).

Whether its process dies of a row, a defect meets whoever works there, or each call takes too long.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from backfill.engine.frontier import place_next
from backfill.engine.pausing import SLICE_ATTEMPTS
from backfill.engine.work import work
from backfill.job import Insert, Job, Options, Row, Table, Update
from backfill.model import SlicePhase
from backfill.pg import freeing, slices
from backfill.pg.ledger import Run
from tests.engine.factory import AtVisit, Outcome, Worksite
from tests.engine.jobs import Increment

BY_TEN = Options(batch_rows=10)


def _lose(site: Worksite, run: Run, *, times: int) -> None:
    """One holder after the other takes the first slice and is gone; the last one's is not freed."""
    for time in range(times):
        freeing.free_lapsed(site.conn, site.ledger, run.id)
        assert slices.claim(
            site.conn,
            site.ledger,
            run.id,
            SlicePhase.WALK,
            holder=f"host:{time}",
            slot=0,
            lease_seconds=-1.0,
        )


def _placed(site: Worksite) -> Run:
    site.numbers(30)
    run = site.begun(Increment, options=BY_TEN)
    bench = site.bench(Increment, run)
    held = place_next(bench, slot=0)
    assert held is not None
    slices.release(bench.conn, bench.ledger, held)
    bench.close()
    return run


def test_a_slice_whose_holders_are_lost_one_after_the_other_pauses_the_run(
    site: Worksite,
) -> None:
    """A row that kills its process would kill the next one, too, and its neighbours with it."""
    run = _placed(site)
    _lose(site, run, times=SLICE_ATTEMPTS)
    paused = site.work(Increment, run)
    assert paused.state == "paused"
    assert paused.why_paused.startswith(
        f"error: slice 1 was lost {SLICE_ATTEMPTS} times in a row, last by host:5,"
    )
    assert "out of memory" in paused.pauses[0].ends
    assert "batch_rows smaller" in paused.pauses[0].ends
    site.lift(run)
    assert site.work(Increment, run).state == "succeeded"


def test_lost_holders_do_not_count_where_something_was_committed_between(site: Worksite) -> None:
    """Workers that are killed all the time get on, batch by batch."""
    run = _placed(site)
    for written in (10, 20):
        _lose(site, run, times=SLICE_ATTEMPTS - 1)
        committed = threading.Event()
        bench = site.bench(Increment, run, stopping=committed.is_set)
        bench.probe = AtVisit("before the checkpoint", 1, committed.set)
        work(bench, slot=0)
        bench.close()
        now = site.outcome(run)
        assert (now.state, now.counts.written) == ("running", written)
    assert site.work(Increment, run).state == "succeeded"
    assert site.rows("SELECT DISTINCT n FROM t") == [(1,)]


def _fail_again_and_again(
    site: Worksite, job: type[Job], run: Run, error: Callable[[], Any]
) -> None:
    for _ in range(SLICE_ATTEMPTS):
        site.execute("UPDATE backfill.slice SET not_before = '-infinity'")
        assert site.outcome(run).state == "running"
        bench = site.bench(job, run)
        bench.probe = lambda point: error() if point == "before the page" else None
        with pytest.raises((KeyError, SystemExit)):
            work(bench, slot=0)
        bench.close()


def test_a_defect_that_meets_every_worker_pauses_the_run(site: Worksite) -> None:
    """Each worker's task fails with it; the reason names its kind, and no value."""

    def misses() -> None:
        raise KeyError("ada@example.org")

    site.numbers(30)
    run = site.begun(Increment, options=BY_TEN)
    _fail_again_and_again(site, Increment, run, misses)
    paused = site.outcome(run)
    assert paused.why_paused.startswith(
        f"error: slice 1 failed {SLICE_ATTEMPTS} times in a row, last with an unexpected KeyError"
        " in misses"
    )
    assert "ada@" not in paused.why_paused
    site.lift(run)
    assert _hastened(site, run).state == "succeeded"


def _hastened(site: Worksite, run: Run) -> Outcome:
    site.execute("UPDATE backfill.slice SET not_before = '-infinity'")
    return site.work(Increment, run)


def test_a_transform_that_exits_pauses_the_run(site: Worksite) -> None:
    """In the processes of Celery's pool, sys.exit is billiard's."""
    leave = _of_module("billiard.pool", "exit")

    class Leaves(Job):
        source = Table("t", columns=["n"])
        target = Update("n")

        def transform(self, row: Row) -> dict[str, object]:
            leave()
            return {"n": 1}

    site.numbers(3)
    run = site.begun(Leaves)
    _fail_again_and_again(site, Leaves, run, lambda: None)
    assert "an unexpected SystemExit in" in site.outcome(run).why_paused


def _of_module(module: str, name: str) -> Callable[[], None]:
    """A function of that module, which ends the process."""
    names: dict[str, Any] = {"__name__": module}
    exec(f"def {name}():\n    raise SystemExit", names)
    found: Callable[[], None] = names[name]
    return found


@pytest.mark.parametrize("end", ["celery", "Ctrl-C", "asked to stop"])
def test_the_process_own_end_is_no_failure_of_its_slice(site: Worksite, end: str) -> None:
    def interrupt() -> None:
        if end == "Ctrl-C":
            raise KeyboardInterrupt
        raise SystemExit

    site.numbers(3)
    run = site.begun(Increment)
    bench = site.bench(Increment, run)
    asked: list[object] = []
    leave = _of_module("billiard.common", "stop") if end == "celery" else interrupt

    def at(point: str) -> None:
        if point == "before the page":
            asked.append(point)
            leave()

    bench.probe = at
    bench.stopping = lambda: end == "asked to stop" and bool(asked)
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        work(bench, slot=0)
    bench.close()
    assert site.rows("SELECT attempts, holder, not_before > now() FROM backfill.slice") == [
        (0, None, False)
    ]


def test_a_failure_after_a_commit_is_the_first_again(site: Worksite) -> None:
    """Also in the hands of the same holder, who has read the count before."""
    run = _placed(site)
    site.execute("UPDATE backfill.slice SET attempts = %s", SLICE_ATTEMPTS - 1)
    bench = site.bench(Increment, run)

    def fail() -> None:
        raise KeyError

    bench.probe = AtVisit("before the page", 2, fail)
    with pytest.raises(KeyError):
        work(bench, slot=0)
    bench.close()
    assert site.outcome(run).state == "running"
    assert site.value("SELECT attempts FROM backfill.slice") == 1


def test_a_result_of_a_batch_that_raises_as_it_is_read_is_its_rows_error(site: Worksite) -> None:
    """A generator's code runs when its lines are asked for."""

    class Lines(Job):
        source = Table("t", columns=["n"])
        target = Insert("copy", on_conflict="skip", columns=["id"])

        def transform_batch(self, rows: Sequence[Row]) -> list[Iterator[dict[str, object]]]:
            return [self._lines(row) for row in rows]

        def _lines(self, row: Row) -> Iterator[dict[str, object]]:
            if row.id == 7:
                raise ValueError("no copy of this one")
            yield {"id": row.id}

    site.numbers(20)
    site.execute("CREATE TABLE copy (id bigint PRIMARY KEY)")
    done = site.run(Lines, options=BY_TEN)
    (refused,) = done.quarantine
    assert (refused.key, refused.message) == (("7",), "ValueError: no copy of this one")
    assert site.value("SELECT count(*) FROM copy") == 19
