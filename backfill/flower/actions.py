"""The buttons: what somebody asked for on a page, done by `backfill.operate`.

1. What a page's question asks to be typed is compared here again: a page is not trusted.
2. What may load a job does so in a process of its own. Flower lives for weeks: it would judge by a
   job's module as it was when it was first loaded, and its own process stays free of users' code.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psycopg

from backfill import operate
from backfill.errors import BackfillError, ExitCode, RefusedError, UsageError, as_told
from backfill.operate import Told
from backfill.pg.ledger import Run, get_run
from backfill.project import Desk, Project

#: Those that never need the job itself.
_WITHOUT_THE_JOB = frozenset({"pause", "cancel", "tune"})
ACTIONS = (*sorted(_WITHOUT_THE_JOB), "resume", "retry", "quarantine-retry", "quarantine-accept")
#: Those of all runs of a database. They need no job either.
DATABASE_ACTIONS = ("stop-all", "start-all")
#: Of a run's options, those that the page offers to change.
TUNABLE = ("rate", "concurrency", "batch_rows", "window")
#: A process that loads a project and its jobs; a minute would be a broken one.
PROCESS_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What somebody asked for.

    Attributes:
        run: its id; empty: all runs of the database.
        by: who, for the ledger's events.
        values: what the question's fields hold, by name.
    """

    action: str
    database: str
    by: str
    run: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)

    def text(self, name: str) -> str | None:
        """A field that was filled in."""
        value = self.values.get(name)
        return value.strip() or None if isinstance(value, str) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the person is told: what was done, or why nothing was. Passes between processes."""

    lines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: str = ""
    remedy: str = ""
    exit_code: int = ExitCode.DONE

    def to_json(self) -> dict[str, Any]:
        return {
            "lines": list(self.lines),
            "notes": list(self.notes),
            "error": self.error,
            "remedy": self.remedy,
        }


def perform(project: Project, asked: Asked) -> Answer:
    """Do it, and say what came of it. Waits: in a thread only."""
    if asked.action in (*DATABASE_ACTIONS, *_WITHOUT_THE_JOB):
        return _perform(project, asked)
    # spawned, not forked: this process has threads and open connections
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        return alone.submit(_perform_afresh, project.settings.project, asked).result(
            PROCESS_SECONDS
        )


def _perform_afresh(folder: Path | None, asked: Asked) -> Answer:
    try:
        return _perform(Project.find(folder), asked)
    except BackfillError as error:
        return _refused(error)


def _perform(project: Project, asked: Asked) -> Answer:
    try:
        desk = project.open(asked.database)
        try:
            if asked.action in DATABASE_ACTIONS:
                _require_what_is_typed(project, asked)
                told = _act_on_all(project, desk, asked)
            else:
                run = get_run(desk.conn, desk.ledger, asked.run)
                _require_what_is_typed(project, asked)
                told = _act(project, desk, run, asked)
        finally:
            desk.conn.close()
    except (BackfillError, psycopg.Error) as error:
        return _refused(as_told(error))
    return Answer(lines=told.lines, notes=told.notes, exit_code=int(told.exit_code))


def _act_on_all(project: Project, desk: Desk, asked: Asked) -> Told:
    if asked.action == "stop-all":
        return operate.stop_all(desk, reason=asked.text("reason"), by=asked.by)
    return operate.start_all(project, desk, by=asked.by)


def _act(project: Project, desk: Desk, run: Run, asked: Asked) -> Told:
    reason = asked.text("reason")
    match asked.action:
        case "pause":
            return operate.pause(desk, run, reason=reason, by=asked.by)
        case "cancel":
            return operate.cancel(desk, run, reason=reason, by=asked.by)
        case "tune":
            changes = {name: asked.text(name) for name in TUNABLE}
            return operate.tune(project, desk, run, changes, by=asked.by)
        case "resume":
            accept = asked.values.get("accept_changes") is True
            return operate.resume(project, desk, run, accept_changes=accept, by=asked.by)
        case "retry":
            return operate.retry(project, desk, run, by=asked.by)
        case "quarantine-retry":
            return operate.release_quarantine(project, desk, run, by=asked.by)
        case "quarantine-accept":
            return operate.accept_quarantine(project, desk, run, by=asked.by)
    raise UsageError(f"there is no action {asked.action!r}")


def _require_what_is_typed(project: Project, asked: Asked) -> None:
    database = project.settings.database(asked.database)
    if database.confirm and asked.text("typed_database") != database.name:
        raise RefusedError(
            f"database {database.name} wants a confirmation",
            remedy=f"Type its name, {database.name}.",
        )
    if asked.action == "cancel" and asked.text("typed_run") != asked.run:
        raise RefusedError(
            "a run that is cancelled has ended for good, so its id has to be typed",
            remedy=f"Type {asked.run}.",
        )


def _refused(error: BackfillError) -> Answer:
    return Answer(error=error.message, remedy=error.remedy, exit_code=int(error.exit_code))
