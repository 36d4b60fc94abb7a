"""The operator's red button, for one database, through its ledger alone."""

from __future__ import annotations

from collections.abc import Sequence

from backfill.engine import control
from backfill.model import RunState
from backfill.operate.onward import what_pauses
from backfill.operate.runs import NO_REASON
from backfill.operate.told import Told, send_or_warn
from backfill.pg.ledger import Run, get_run
from backfill.project import Desk, Project
from backfill.worker.sent import Sent


def stop_all(desk: Desk, *, reason: str | None, by: str) -> Told:
    """Pause every run of a database, and each new one, until `start_all`."""
    paused = control.stop_all(desk.conn, desk.ledger, reason=reason or NO_REASON, by=by)
    return Told(lines=(f"{desk.database}: {_runs(paused)} paused; a new run begins paused, too",))


def start_all(project: Project, desk: Desk, *, by: str) -> Told:
    """Let the runs go on that `stop_all` has paused, but those that something else pauses, too."""
    freed = control.start_all(desk.conn, desk.ledger, by=by)
    if freed is None:
        return Told(lines=(f"{desk.database}: nothing was stopped",))
    runs = [get_run(desk.conn, desk.ledger, run) for run in freed]
    free = [run for run in runs if run.run_state is not RunState.PAUSED]
    held = [run for run in runs if run.run_state is RunState.PAUSED]
    told = Told()
    if free or not held:
        told = Told(lines=(f"{desk.database}: {_runs([run.id for run in free])} let go on",))
    for run in held:
        line = f"{desk.database}: {run.id} stays paused: something else pauses it, too"
        told = told.then(Told(lines=(line,), notes=what_pauses(desk, run)))
    return told.then(_tell(project, desk, free))


def _runs(ids: Sequence[str]) -> str:
    if not ids:
        return "no run is"
    return f"{', '.join(ids)} {'is' if len(ids) == 1 else 'are'}"


def _tell(project: Project, desk: Desk, runs: Sequence[Run]) -> Told:
    from backfill.worker.send import send_slots  # Celery takes a while to import

    def send() -> Sent:
        sent = [send_slots(project, desk, run) for run in runs if run.executor == "celery"]
        return next((each for each in sent if not each), Sent())

    told = send_or_warn(send, otherwise="workers go on")
    own = tuple(
        f"go on with `backfill run {run.job}` here" for run in runs if run.executor == "local"
    )
    return told.then(Told(notes=own))
