"""A worker's workbenches: made for the run as the ledger has it now."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from backfill.engine import control
from backfill.errors import RefusedError
from backfill.job.registry import Registry
from backfill.model import PauseCause, RunState
from backfill.project import Project
from backfill.worker.benches import MOST_KEPT, Benches, PausedError
from tests.acceptance.crew import Crew
from tests.worker.conftest import JOBS


@pytest.fixture
def run(crew: Crew) -> str:
    return crew.enqueue("count")


@pytest.fixture
def benches(crew: Crew) -> Iterator[Benches]:
    benches = Benches(crew.project)
    yield benches
    benches.close()


def accept(crew: Crew, run: str) -> None:
    """Accept the declaration as it is in the project now."""
    declaration = crew.project.declaration("count")
    control.accept_changes(
        crew.desk.conn,
        crew.desk.ledger,
        run,
        fingerprint=declaration.fingerprint(),
        declaration=declaration.describe(),
        version=declaration.version,
        by="a person",
    )


def change(crew: Crew) -> None:
    crew.write_jobs(JOBS.replace("n + 1", "n + 2"))


def test_a_workbench_is_kept_and_takes_over_changed_options(
    crew: Crew, run: str, benches: Benches
) -> None:
    ledger = crew.desk.ledger.id
    kept = benches.get(run, database="default", ledger=ledger)
    assert benches.get(run, database="default", ledger=ledger) is kept
    crew.conn.execute('UPDATE backfill.run SET options = options || \'{"rate": "5/s"}\'')
    assert benches.get(run, database="default", ledger=ledger) is kept
    assert kept.bench.options.rate == "5/s"
    kept.bench.conn.close()
    assert benches.get(run, database="default", ledger=ledger) is not kept


def test_a_message_of_another_ledger_is_refused(run: str, benches: Benches) -> None:
    with pytest.raises(RefusedError, match="the message is for ledger"):
        benches.get(run, database="default", ledger="another")


def test_a_run_whose_declaration_differs_is_paused(crew: Crew, run: str, benches: Benches) -> None:
    change(crew)
    with pytest.raises(PausedError):
        benches.get(run, database="default", ledger=crew.desk.ledger.id)
    assert crew.causes(run) == {PauseCause.CHANGED_JOB}


def test_a_change_accepted_while_a_worker_still_compares_is_not_paused_again(
    crew: Crew, run: str
) -> None:
    """The worker has read the run before, and judges it after the acceptance."""

    class SlowProject(Project):
        @property
        def registry(self) -> Registry:  # as slow as an import may be
            change(crew)
            accept(crew, run)
            return crew.project.registry

    project = crew.project
    benches = Benches(SlowProject(project.settings, project.environ))
    with pytest.raises(RefusedError) as refused:
        benches.get(run, database="default", ledger=crew.desk.ledger.id)
    assert not isinstance(refused.value, PausedError)
    assert crew.state(run) is RunState.QUEUED
    assert not crew.causes(run)


def test_a_run_that_needs_newer_code_is_left_to_newer_workers(
    crew: Crew, run: str, benches: Benches
) -> None:
    """And is not paused, as one whose job is broken."""
    crew.conn.execute("UPDATE backfill.run SET needs_version = 99")
    with pytest.raises(RefusedError, match="came with version 99 of the ledger") as refused:
        benches.get(run, database="default", ledger=crew.desk.ledger.id)
    assert not isinstance(refused.value, PausedError)
    assert not crew.causes(run)


def test_a_forked_child_lets_go_of_the_connections_that_it_inherited(
    crew: Crew, run: str, benches: Benches
) -> None:
    """Two on one connection read each other's answers; closing it would end it for both."""
    ledger = crew.desk.ledger.id
    kept = benches.get(run, database="default", ledger=ledger)
    ours = kept.bench.conn.info.backend_pid
    child = os.fork()
    if child == 0:  # no exception may leave this branch: the child is a copy of the whole test run
        code = 1
        with suppress(BaseException):
            its = benches.get(run, database="default", ledger=ledger).bench.conn
            row = its.execute("SELECT pg_backend_pid()").fetchone()
            code = 0 if row == (its.info.backend_pid,) and row != (ours,) else 2
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert kept.bench.conn.execute("SELECT pg_backend_pid()").fetchone() == (ours,)
    assert benches.get(run, database="default", ledger=ledger) is kept


def connections(crew: Crew) -> int:
    """How many there are to the database beside those of this test."""
    ((number,),) = crew.query(
        "SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database()"
        " AND backend_type = 'client backend' AND pid <> ALL (%s)",
        [crew.conn.info.backend_pid, crew.desk.conn.info.backend_pid],
    )
    return int(str(number))


def test_a_workbench_has_one_connection_and_gives_it_back(
    crew: Crew, run: str, benches: Benches
) -> None:
    benches.get(run, database="default", ledger=crew.desk.ledger.id)
    assert connections(crew) == 1
    benches.close()
    crew.wait(lambda: connections(crew) == 0, "its connection is closed")


def test_many_runs_by_turns_are_set_up_once_each(crew: Crew) -> None:
    """What a `setup` loads may take long, and a task is short."""
    crew.write_jobs(
        "".join(
            JOBS.replace("Count", f"Count{i}").replace("item", f"item{i}") for i in range(MOST_KEPT)
        )
    )
    for i in range(MOST_KEPT):
        crew.conn.execute(f"CREATE TABLE item{i} (LIKE item INCLUDING ALL)".encode())
    benches = Benches(crew.project)
    runs = [crew.enqueue(f"count{i}") for i in range(MOST_KEPT)]
    ledger = crew.desk.ledger.id
    made = [benches.get(run, database="default", ledger=ledger) for run in runs]
    for run, kept in zip(runs, made, strict=True):
        assert benches.get(run, database="default", ledger=ledger) is kept
    benches.close()
    assert all(kept.bench.conn.closed for kept in made)


def test_a_workbench_that_no_task_uses_is_closed(crew: Crew, run: str) -> None:
    benches = Benches(crew.project, idle_seconds=0.2)
    ledger = crew.desk.ledger.id
    kept = benches.get(run, database="default", ledger=ledger)
    time.sleep(0.5)
    assert not kept.bench.conn.closed, "a task uses it"
    benches.rest(run)
    crew.wait(lambda: kept.bench.conn.closed, "it is closed")
    again = benches.get(run, database="default", ledger=ledger)
    assert again is not kept
    benches.rest(run)
    crew.wait(lambda: again.bench.conn.closed, "so is the next one")
    benches.close()


def test_each_thread_has_its_own_and_the_end_closes_them_all(
    crew: Crew, run: str, benches: Benches
) -> None:
    ledger = crew.desk.ledger.id
    ours = benches.get(run, database="default", ledger=ledger)
    with ThreadPoolExecutor(1) as pool:
        its = pool.submit(benches.get, run, database="default", ledger=ledger).result()
        assert its is not ours
        benches.drop(run)
        assert ours.bench.conn.closed
        assert not its.bench.conn.closed
    benches.close()
    assert its.bench.conn.closed
