"""What the buttons do: typed names, who asked, the job as it is now; at last, pressed on a page."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from playwright.sync_api import expect

from backfill.engine import lifecycle
from backfill.flower.actions import Asked, perform
from backfill.model import PauseCause, RunState
from backfill.project import Project
from tests.acceptance import counting
from tests.acceptance.crew import Crew
from tests.flower.conftest import OTHER, Visitor
from tests.flower.servers import FlowerServer


@pytest.fixture
def run(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A run that waits for a worker for ever; in this process as in Flower's."""
    for name, value in crew.environ.items():
        monkeypatch.setenv(name, value)
    run = crew.enqueue("other")
    yield run
    if crew.state(run).is_live:
        lifecycle.cancel(crew.desk.conn, crew.desk.ledger, run, reason="over", by="the test")


def asked(action: str, run: str, **values: object) -> Asked:
    return Asked(action=action, database="default", run=run, by="flower:ann", values=values)


def test_where_a_confirmation_is_wanted_the_databases_name_is_typed(crew: Crew, run: str) -> None:
    shipped = crew.project
    databases = {
        name: replace(database, confirm=True)
        for name, database in shipped.settings.databases.items()
    }
    project = Project(replace(shipped.settings, databases=databases), shipped.environ)
    for typed in ({}, {"typed_database": "other"}, {"typed_database": None}):
        for action, name in (("pause", run), ("stop-all", "")):
            answer = perform(project, asked(action, name, **typed))
            assert answer.remedy == "Type its name, default."
    assert crew.causes(run) == set()
    assert perform(project, asked("stop-all", "", typed_database="default")).error == ""
    assert crew.causes(run) == {"stop-all"}
    assert crew.events(run)[-1].caused_by == "flower:ann"
    assert perform(project, asked("start-all", "")).remedy == "Type its name, default."
    assert perform(project, asked("start-all", "", typed_database="default")).error == ""
    assert crew.causes(run) == set()
    assert perform(project, asked("pause", run, typed_database="default")).error == ""
    assert crew.causes(run) == {"user"}
    assert crew.events(run)[-1].caused_by == "flower:ann"


@contextmanager
def changed_job(crew: Crew, run: str) -> Iterator[None]:
    """The run is paused because its job has changed, as it has."""
    lifecycle.pause(
        crew.desk.conn,
        crew.desk.ledger,
        run,
        PauseCause.CHANGED_JOB,
        reason="another version",
        ends="resume --accept-changes",
        by="the test",
    )
    path = crew.folder / crew.package / "work.py"
    before = path.read_text()
    path.write_text(before.replace("class Other(Job):", "class Other(Job):\n    version = 2\n"))
    try:
        yield
    finally:
        crew.write_jobs(counting.JOB + OTHER)


def test_a_changed_job_is_accepted_as_it_is_now_and_not_as_it_was_loaded(
    crew: Crew, run: str
) -> None:
    _ = crew.project.declaration("other")  # loaded here, long before the change
    with changed_job(crew, run):
        assert perform(crew.project, asked("resume", run)).error == ""
        assert crew.causes(run) == {"changed job"}  # it was not asked to accept anything
        answer = perform(crew.project, asked("resume", run, accept_changes=True))
        assert answer.lines[0] == f"{run} has the declaration as it is now"
    assert crew.causes(run) == set()
    assert crew.run(run).job_version == 2


@pytest.mark.parametrize("action", ["pause", "tune", "retry"])
def test_a_run_that_is_not_there_is_told(crew: Crew, run: str, action: str) -> None:
    answer = perform(crew.project, asked(action, f"{run}x", rate="1/s"))
    assert answer.error == f"there is no run '{run}x'"
    assert answer.remedy


def test_nothing_happens_to_what_has_ended(crew: Crew, run: str) -> None:
    assert perform(crew.project, asked("cancel", run, typed_run=run, reason="no")).error == ""
    assert crew.state(run) is RunState.CANCELLED
    for action in ("pause", "tune", "cancel"):
        assert perform(crew.project, asked(action, run, rate="1/s", typed_run=run)).error
    assert crew.state(run) is RunState.CANCELLED


def test_changes_are_accepted_a_failed_run_retried_and_a_run_cancelled_on_its_page(
    crew: Crew, run: str, flower: FlowerServer, visitor: Visitor
) -> None:
    page = visitor.page
    told = page.locator("#bf-told")
    named = (run, "Job", "other", "default, postgresql://127.0.0.1")
    page.goto(f"{flower.url}/backfills/run/{run}?database=default")
    with changed_job(crew, run):
        question = visitor.ask(f"Resume {run}", *named)
        question.get_by_label("Go on with the job").check()
        question.get_by_role("button", name="Resume").click()
        expect(told).to_contain_text(f"{run} has the declaration as it is now")
        assert crew.causes(run) == set()
        assert crew.run(run).job_version == 2

        lifecycle.fail(crew.desk.conn, crew.desk.ledger, run, reason="it broke", by="the test")
        visitor.ask(f"Retry {run}", *named).get_by_role("button", name="Retry").click()
        expect(told).to_contain_text(f"{run} is taken up again where it stopped")
        assert crew.state(run) is RunState.QUEUED

    question = visitor.ask(f"Cancel {run}", *named)
    question.get_by_label("Reason").fill("a mistake")
    question.get_by_title(f"type {run}").fill(run[:-1])
    question.get_by_role("button", name="End the run").click()
    expect(question).to_be_visible()  # that was not its id
    assert crew.state(run) is RunState.QUEUED
    question.get_by_title(f"type {run}").fill(run)
    question.get_by_role("button", name="End the run").click()
    expect(page.locator(".bf-top .bf-state")).to_have_text("cancelled")
    assert crew.state(run) is RunState.CANCELLED
    by_name = {event.name: event for event in crew.events(run)}
    assert by_name["run.cancelled"].detail["reason"] == "a mistake"
    assert {by_name[f"run.{did}"].caused_by for did in ("retried", "cancelled")} == {
        f"flower@{socket.gethostname()}"
    }
    for button in ("Cancel", "Retry", "Resume"):
        expect(page.get_by_role("button", name=f"{button} {run}")).to_be_hidden()
