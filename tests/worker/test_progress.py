"""A run's progress, as people see it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backfill.engine import lifecycle
from backfill.model import PauseCause, RunState
from backfill.pg.connect import Connection
from backfill.pg.ledger import Ledger, Totals, totals
from backfill.project import Project
from backfill.watch import progress
from tests.acceptance.crew import Crew


def test_state_and_causes_are_of_the_same_moment(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for a pause must not see its cause in a run that is not paused yet."""
    run = crew.enqueue("count")

    def totals_while_somebody_pauses(conn: Connection, ledger: Ledger, run: str) -> Totals:
        lifecycle.pause(
            crew.conn, ledger, run, PauseCause.USER, reason="lunch", ends="soon", by="a person"
        )
        return totals(conn, ledger, run)

    monkeypatch.setattr(progress, "totals", totals_while_somebody_pauses)
    seen = progress.read(crew.desk.conn, crew.desk.ledger, run, checkpoint=None)
    assert (seen.run.run_state, seen.pauses) == (RunState.QUEUED, [])
    seen = progress.read(crew.desk.conn, crew.desk.ledger, run, checkpoint=None)
    assert seen.run.run_state is RunState.PAUSED
    assert [pause.cause for pause in seen.pauses] == [PauseCause.USER]


def test_the_slots_of_a_database_are_those_of_the_settings(crew: Crew) -> None:
    run, settings = crew.enqueue("count"), crew.project.settings
    assert crew.project.progress(crew.desk, run, checkpoint=None).slots is None
    databases = {
        name: replace(database, max_slots=3) for name, database in settings.databases.items()
    }
    limited = Project(replace(settings, databases=databases), crew.project.environ)
    slots = limited.progress(crew.desk, run, checkpoint=None).slots
    assert slots is not None
    assert (slots.most, slots.of_all, slots.held) == (3, 0, 0)
