"""`backfill pause`, `resume`, `cancel`, `retry`: what a person does to a run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from backfill.cli.options import run_argument, yes_option
from backfill.cli.session import Session, ask, pass_session
from backfill.cli.tell import sent_or_warned
from backfill.errors import ExitCode, ProjectError, RefusedError
from backfill.model import PauseCause, RunState

if TYPE_CHECKING:
    from backfill.job.declaration import Declaration
    from backfill.pg.ledger import Run
    from backfill.project import Desk, Project


@click.command()
@run_argument
@click.option("--reason", metavar="TEXT", help="Shown by status and events.")
@yes_option
@pass_session
def pause(
    session: Session, run_text: str | None, database: str | None, reason: str | None, yes: bool
) -> None:
    """Pause a run; the batches in hand are finished."""
    from backfill.engine import lifecycle
    from backfill.engine.enqueue import person

    with session.run(run_text, database) as (desk, run):
        session.confirm_write(desk.database, yes=yes)
        if not run.run_state.is_live:
            raise RefusedError(
                f"run {run.id} is {run.state}: there is nothing to pause",
                remedy=f"See `backfill status {run.id}`.",
            )
        added = lifecycle.pause(
            desk.conn,
            desk.ledger,
            run.id,
            PauseCause.USER,
            reason=reason or "somebody asked for it",
            ends=f"`backfill resume {run.id}`",
            by=person(),
        )
        click.echo(f"{run.id} {'is paused' if added else 'was paused by somebody already'}")
        click.echo(f"it goes on with `backfill resume {run.id}`", err=True)


@click.command()
@run_argument
@click.option("--reason", metavar="TEXT", help="Shown by events.")
@yes_option
@pass_session
def cancel(
    session: Session, run_text: str | None, database: str | None, reason: str | None, yes: bool
) -> None:
    """End a run for good; what it has written stays."""
    from backfill.engine import lifecycle
    from backfill.engine.enqueue import person

    with session.run(run_text, database) as (desk, run):
        session.confirm_write(desk.database, yes=yes)
        asked_already = session.project.settings.database(desk.database).confirm
        if run.run_state.is_live and not yes and not asked_already and sys.stdin.isatty():
            ask(f"End {run.id} ({run.state}) for good?")
        lifecycle.cancel(
            desk.conn,
            desk.ledger,
            run.id,
            reason=reason or "somebody asked for it",
            by=person(),
        )
        click.echo(f"{run.id} is cancelled; what it has written stays")


@click.command()
@run_argument
@yes_option
@pass_session
def retry(session: Session, run_text: str | None, database: str | None, yes: bool) -> int:
    """Take a failed run up again where it stopped."""
    from backfill.engine import lifecycle
    from backfill.engine.enqueue import person
    from backfill.engine.preflight import preflight
    from backfill.job.declaration import bind

    with session.run(run_text, database) as (desk, run):
        session.confirm_write(desk.database, yes=yes)
        relation, columns = "", tuple[str, ...]()
        # the lifecycle refuses what has not failed, and the job need not be there for that
        if run.run_state is RunState.FAILED:
            declaration = session.project.declaration(run.job)
            job = bind(
                declaration.job_class,
                declaration.params_from_json(run.params),
                environ=session.project.environ,
            )
            found = preflight(desk.conn, declaration, arguments=declaration.sql_arguments(job))
            relation, columns = found.relation, found.columns
        lifecycle.retry(
            desk.conn, desk.ledger, run.id, by=person(), relation=relation, columns=columns
        )
        click.echo(f"{run.id} goes on where it stopped")
        return go_on(session.project, desk, run.id)


@click.command()
@run_argument
@click.option(
    "--accept-changes", is_flag=True, help="Go on with the job's declaration as it is now."
)
@yes_option
@pass_session
def resume(
    session: Session, run_text: str | None, database: str | None, accept_changes: bool, yes: bool
) -> int:
    """Let a paused run go on, on workers.

    Lifts what a person or an error caused; a window opens by itself, and rows in quarantine are
    settled by `backfill quarantine`.
    """
    from backfill.engine import lifecycle
    from backfill.engine.enqueue import person
    from backfill.pg.ledger import get_run, pauses

    with session.run(run_text, database) as (desk, run):
        session.confirm_write(desk.database, yes=yes)
        causes = {pause.cause for pause in pauses(desk.conn, desk.ledger, run.id)}
        _refuse_what_cannot_resume(desk, run, causes, accept_changes=accept_changes)
        lifted = [PauseCause.USER, PauseCause.ERROR]
        if accept_changes or PauseCause.CHANGED_JOB in causes:
            declaration = session.project.declaration(run.job)
            if _is_same_or_accepted(desk, run, declaration, accept_changes=accept_changes):
                lifted.append(PauseCause.CHANGED_JOB)
        handed_over = run.executor == "local"
        if handed_over:
            _require_workers(session.project, run)
            lifecycle.hand_over(desk.conn, desk.ledger, run.id, by=person())
        something = lifecycle.lift(desk.conn, desk.ledger, run.id, lifted, by=person())
        if handed_over:
            click.echo(f"{run.id} is the workers' now")
        after = get_run(desk.conn, desk.ledger, run.id)
        if after.run_state is not RunState.PAUSED:
            click.echo(f"{run.id} goes on")
            return go_on(session.project, desk, run.id)
        return _still_paused(desk, after, lifted_something=something)


def _refuse_what_cannot_resume(
    desk: Desk, run: Run, causes: set[str], *, accept_changes: bool
) -> None:
    """A run that has ended, or that nothing pauses; a local one whose process is gone may go on."""
    from backfill.pg.ledger import totals

    if run.run_state is RunState.FAILED:
        raise RefusedError(
            f"run {run.id} has failed", remedy=f"`backfill retry {run.id}` takes it up again."
        )
    if not run.run_state.is_live:
        raise RefusedError(
            f"run {run.id} is {run.state}: there is nothing to resume",
            remedy=f"`backfill enqueue {run.job}` begins a new one.",
        )
    if causes or accept_changes:
        return
    if run.executor != "local":
        raise RefusedError(
            f"run {run.id} is {run.state}: nothing pauses it",
            remedy=f"`backfill status {run.id}` says what limits it.",
        )
    if totals(desk.conn, desk.ledger, run.id).held:
        raise RefusedError(
            f"a process works on run {run.id}: nothing pauses it",
            remedy="Press Ctrl-C there first; a process that was killed is noticed in a moment.",
        )


def _is_same_or_accepted(
    desk: Desk, run: Run, declaration: Declaration, *, accept_changes: bool
) -> bool:
    """True when the run may go on with the declaration; accepts it when that was asked for.

    Raises:
        RefusedError: the change is one that a run in its middle cannot follow.
        UsageError: the parameters of the run no longer fit.
    """
    from backfill.engine.control import accept_changes as accept
    from backfill.engine.enqueue import person

    if declaration.fingerprint() == run.fingerprint:
        return True
    if not accept_changes:
        return False
    now = declaration.describe()
    changed = [what for what, was, is_now in _fixed(run.declaration, now) if was != is_now]
    if changed:
        raise RefusedError(
            f"job {run.job} has another {' and another '.join(changed)} than when run {run.id}"
            " began; its slices would mean other rows",
            remedy=f"End it (backfill cancel {run.id}) and begin a new run.",
        )
    declaration.complete_params(declaration.params_from_json(run.params))
    accept(
        desk.conn,
        desk.ledger,
        run.id,
        fingerprint=declaration.fingerprint(),
        declaration=now,
        version=declaration.version,
        by=person(),
    )
    click.echo(f"{run.id} has the declaration as it is now")
    return True


def _fixed(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, object, object]]:
    """What was resolved or claimed when the run was enqueued: name, then, now."""
    return [
        ("table", was["source"]["table"], now["source"]["table"]),
        ("key", was["source"]["key"], now["source"]["key"]),
        ("target", was["target"], now["target"]),
    ]


def _require_workers(project: Project, run: Run) -> None:
    """A run that is handed over needs a broker: better refused than stranded."""
    try:
        project.settings.require_redis_url()
    except ProjectError as error:
        raise ProjectError(
            f"run {run.id} would go on with workers, and {error.message}",
            remedy=f"{error.remedy} Or go on in a process: `backfill run {run.job}`.",
        ) from error


def _still_paused(desk: Desk, run: Run, *, lifted_something: bool) -> ExitCode:
    """Say what still pauses it, and what ends that."""
    from backfill.pg.ledger import pauses

    left = pauses(desk.conn, desk.ledger, run.id)
    click.echo(f"{run.id} is still paused", err=True)
    for cause in left:
        click.echo(f"{cause.cause}: {cause.reason}\nends: {cause.ends}", err=True)
    causes = {cause.cause for cause in left}
    if PauseCause.QUARANTINE in causes:
        return ExitCode.QUARANTINE
    # a window opens by itself: then everything that was asked for has been done
    return ExitCode.DONE if lifted_something and causes == {"window"} else ExitCode.REFUSED


def go_on(project: Project, desk: Desk, run_id: str) -> ExitCode:
    """After a run was let go on: tell the workers, or say who works on it now."""
    from backfill.pg.ledger import get_run

    run = get_run(desk.conn, desk.ledger, run_id)
    if run.run_state is RunState.PAUSED:
        _still_paused(desk, run, lifted_something=True)
        return ExitCode.DONE
    if run.executor == "celery":
        _tell_workers(project, desk, run)
        return ExitCode.DONE
    if _is_worked_off(desk, run):
        run = _finish(project, desk, run)
        click.echo(f"{run_id} {run.state}")
    if run.run_state.is_live:
        click.echo(
            f"go on with `backfill run {run.job}` here, or `backfill resume {run_id}` on workers",
            err=True,
        )
    return ExitCode.DONE


def _is_worked_off(desk: Desk, run: Run) -> bool:
    """True when no row is left to do, and the run only has to be brought to its end."""
    from backfill.pg.ledger import totals

    phases = totals(desk.conn, desk.ledger, run.id).by_phase
    return run.frontier_done and phases["done"] == sum(phases.values())


def _finish(project: Project, desk: Desk, run: Run) -> Run:
    """Bring a local run to its end, its hook called: no other process would."""
    from backfill.engine.enqueue import person
    from backfill.entry import start_here
    from backfill.pg.ledger import get_run

    declaration = project.declaration(run.job)
    here = start_here(
        project,
        declaration,
        params=declaration.params_from_json(run.params),
        options=declaration.options.replace_from_text({"database": desk.database}),
        by=person(),
    )
    try:
        here.crew.start()
        here.crew.join()
    except BaseException:
        here.crew.stop()
        raise
    finally:
        here.desk.conn.close()
    return get_run(desk.conn, desk.ledger, run.id)


def _tell_workers(project: Project, desk: Desk, run: Run) -> None:
    from backfill.pg.ledger import workers
    from backfill.watch.progress import WORKER_SECONDS
    from backfill.worker.send import send_slots

    sent_or_warned(lambda: send_slots(project, desk, run), otherwise="workers go on")
    if not workers(desk.conn, desk.ledger, within_seconds=WORKER_SECONDS):
        click.echo("no worker is running: start one with `backfill worker`", err=True)
