"""A worker's workbenches: made for the run as the ledger has it now."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

import pytest

from backfill.engine import control
from backfill.errors import RefusedError
from backfill.job.registry import Registry
from backfill.model import PauseCause, RunState
from backfill.project import Project
from backfill.worker.benches import Benches, PausedError
from tests.acceptance.crew import Crew
from tests.worker.conftest import JOBS


@pytest.fixture
def run(crew: Crew) -> str:
    return crew.enqueue("count")


@pytest.fixture
def benches(crew: Crew) -> Iterator[Benches]:
    benches = Benches(crew.project)
    yield benches
    for run in crew.query("SELECT id FROM backfill.run"):
        benches.drop(str(run[0]))


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
