"""What follows when a run was let go on: its workers are told, or it is brought to its end here."""

from __future__ import annotations

import psycopg

from backfill.entry import start_here
from backfill.errors import BackfillError, ExitCode, as_told
from backfill.model import PauseCause, RunState
from backfill.operate.told import Told, send_or_warn
from backfill.pg.bounds import bounds_of
from backfill.pg.ledger import Run, get_run, pauses, totals, workers
from backfill.project import Desk, Project
from backfill.watch.progress import WORKER_SECONDS


def go_on(project: Project, desk: Desk, run_id: str, *, by: str) -> Told:
    """After a run was let go on: tell the workers, or say who works on it now.

    What was asked for has been done by then: what fails here is told and not raised.
    """
    try:
        return _go_on(project, desk, run_id, by=by)
    except (BackfillError, psycopg.Error) as error:
        told = as_told(error)
        remedies = (told.remedy,) if told.remedy else ()
        return Told(notes=(f"error: {told.message}", *remedies), exit_code=told.exit_code)


def _go_on(project: Project, desk: Desk, run_id: str, *, by: str) -> Told:
    run = get_run(desk.conn, desk.ledger, run_id)
    if run.run_state is RunState.PAUSED:
        return Told(notes=still_paused(desk, run, lifted_something=True).notes)
    if run.executor == "celery":
        return _tell_workers(project, desk, run)
    told = Told()
    if _is_worked_off(desk, run):
        run = _finish(project, desk, run, by=by)
        told = Told(lines=(f"{run_id} {run.state}",))
    if not run.run_state.is_live:
        return told
    ways = f"`backfill run {run.job}` here, or `backfill resume {run_id}` on workers"
    return told.then(Told(notes=(f"go on with {ways}",)))


def still_paused(desk: Desk, run: Run, *, lifted_something: bool) -> Told:
    """Say what still pauses it, and what ends that."""
    notes = (f"{run.id} is still paused", *what_pauses(desk, run))
    causes = {pause.cause for pause in pauses(desk.conn, desk.ledger, run.id)}
    if PauseCause.QUARANTINE in causes:
        code = ExitCode.QUARANTINE
    elif lifted_something and causes == {PauseCause.WINDOW}:
        # a window opens by itself: everything that was asked for has been done
        code = ExitCode.DONE
    else:
        code = ExitCode.REFUSED
    return Told(notes=notes, exit_code=code)


def what_pauses(desk: Desk, run: Run) -> tuple[str, ...]:
    """Each cause with its reason, and what ends it, a line each."""
    return tuple(
        line
        for pause in pauses(desk.conn, desk.ledger, run.id)
        for line in (f"{pause.cause}: {pause.reason}", f"ends: {pause.ends}")
    )


def _is_worked_off(desk: Desk, run: Run) -> bool:
    """True when no row is left to do, and the run only has to be brought to its end."""
    phases = totals(desk.conn, desk.ledger, run.id).by_phase
    return run.frontier_done and phases["done"] == sum(phases.values())


def _finish(project: Project, desk: Desk, run: Run, *, by: str) -> Run:
    """Bring a local run to its end, its hook called: no other process would."""
    declaration = project.declaration(run.job)
    here = start_here(
        project,
        declaration,
        params=declaration.params_from_json(run.params),
        options=declaration.options.replace_from_text({"database": run.options["database"]}),
        bounds=bounds_of(run),
        by=by,
    )
    try:
        with here.notices:
            here.crew.start()
            here.crew.join()
    except BaseException:
        here.crew.stop()
        raise
    finally:
        here.desk.conn.close()
    return get_run(desk.conn, desk.ledger, run.id)


def _tell_workers(project: Project, desk: Desk, run: Run) -> Told:
    from backfill.worker.send import send_slots  # Celery takes a while to import

    told = send_or_warn(lambda: send_slots(project, desk, run), otherwise="workers go on")
    if workers(desk.conn, desk.ledger, within_seconds=WORKER_SECONDS):
        return told
    return told.then(Told(notes=("no worker is running: start one with `backfill worker`",)))
