"""Pausing, resuming, cancelling and retrying a run."""

from __future__ import annotations

from collections.abc import Collection

from backfill.engine import control, lifecycle
from backfill.engine.changed import fixed_changes, remedies
from backfill.engine.preflight import preflight
from backfill.errors import ProjectError, RefusedError
from backfill.job import Options
from backfill.job.declaration import Declaration, bind
from backfill.model import PauseCause, RunState
from backfill.operate import waiting
from backfill.operate.onward import go_on, still_paused
from backfill.operate.told import Told
from backfill.pg.ledger import Run, get_run, pauses, totals
from backfill.project import Desk, Project
from backfill.worker.installed import require_broker

#: The reason of a pause or a cancellation for which nobody gave one.
NO_REASON = "somebody asked for it"


def pause(desk: Desk, run: Run, *, reason: str | None, by: str) -> Told:
    """Pause a run; the batches in hand are finished.

    Raises:
        RefusedError: it has ended.
    """
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
        reason=reason or NO_REASON,
        ends=f"`backfill resume {run.id}`",
        by=by,
    )
    return Told(
        lines=(f"{run.id} {'is paused' if added else 'was paused by somebody already'}",),
        notes=(f"it goes on with `backfill resume {run.id}`",),
    )


def cancel(desk: Desk, run: Run, *, reason: str | None, by: str) -> Told:
    """End a run for good; what it has written stays.

    Raises:
        RefusedError: it has ended already, or a batch in hand does not end in time.
    """
    with waiting.for_batches_of(run):
        lifecycle.cancel(desk.conn, desk.ledger, run.id, reason=reason or NO_REASON, by=by)
    return Told(lines=(f"{run.id} is cancelled; what it has written stays",))


def retry(project: Project, desk: Desk, run: Run, *, by: str) -> Told:
    """Take a failed run up again where it stopped.

    Raises:
        RefusedError: it has not failed, the preflight refuses, or another run is in its way.
        ProjectError, UsageError: its job cannot be loaded, or its parameters no longer fit.
    """
    relation, columns = "", tuple[str, ...]()
    # the lifecycle refuses what has not failed, and the job need not be there for that
    if run.run_state is RunState.FAILED:
        declaration = project.declaration(run.job)
        job = bind(
            declaration.job_class,
            declaration.params_from_json(run.params),
            environ=project.environ,
        )
        options = Options.from_json(run.options)
        with project.source(declaration, options) as source_conn:
            found = preflight(
                desk.conn,
                declaration,
                arguments=declaration.sql_arguments(job),
                options=options,
                source_conn=source_conn,
            )
        relation, columns = found.relation, found.columns
    lifecycle.retry(desk.conn, desk.ledger, run.id, by=by, relation=relation, columns=columns)
    return Told(lines=(f"{run.id} is taken up again where it stopped",)).then(
        go_on(project, desk, run.id, by=by)
    )


def resume(project: Project, desk: Desk, run: Run, *, accept_changes: bool, by: str) -> Told:
    """Let a paused run go on, on workers; a process's own run becomes theirs.

    Lifts what a person or an error caused, and the change of the job once it is accepted or taken
    back. What else pauses the run is told, with the exit code for it.

    Args:
        accept_changes: go on with the job's declaration as it is now.

    Raises:
        RefusedError: nothing pauses it, it has ended, or the change is one that a run in its
            middle cannot follow.
        ProjectError, UsageError: its job cannot be loaded, its parameters no longer fit, or the
            project has no broker for a run that workers are to take over.
    """
    _refuse_what_has_ended(run)
    causes = {pause.cause for pause in pauses(desk.conn, desk.ledger, run.id)}
    lifted = [PauseCause.USER, PauseCause.ERROR]
    changed: Declaration | None = None
    if accept_changes or PauseCause.CHANGED_JOB in causes:
        declaration = project.declaration(run.job)
        changed = None if declaration.fingerprint() == run.fingerprint else declaration
        if changed is None or accept_changes:
            lifted.append(PauseCause.CHANGED_JOB)
    if not causes:
        _refuse_what_nothing_pauses(desk, run, accepts=changed is not None)
    # what stays paused stays its process's: nobody could take it back from the workers
    handed_over = run.executor == "local" and _goes_on(causes, lifted)
    if handed_over:
        _require_workers(project, run)
    lines: list[str] = []
    if changed is not None and accept_changes:
        _accept(desk, run, changed, by=by)
        lines.append(f"{run.id} has the declaration as it is now")
    if handed_over:
        lifecycle.hand_over(desk.conn, desk.ledger, run.id, by=by)
        lines.append(f"{run.id} is the workers' now")
    something = lifecycle.lift(desk.conn, desk.ledger, run.id, lifted, by=by)
    after = get_run(desk.conn, desk.ledger, run.id)
    if after.run_state is RunState.PAUSED:
        return Told(lines=tuple(lines)).then(still_paused(desk, after, lifted_something=something))
    return Told(lines=(*lines, f"{run.id} goes on")).then(go_on(project, desk, run.id, by=by))


def _goes_on(causes: Collection[str], lifted: Collection[str]) -> bool:
    """True when nothing is left that pauses it, or its hours alone, which come by themselves."""
    left = set(causes) - set(lifted)
    return not left or (left == {PauseCause.WINDOW} and left != set(causes))


def _refuse_what_has_ended(run: Run) -> None:
    if run.run_state is RunState.FAILED:
        raise RefusedError(
            f"run {run.id} has failed", remedy=f"`backfill retry {run.id}` takes it up again."
        )
    if not run.run_state.is_live:
        raise RefusedError(
            f"run {run.id} is {run.state}: there is nothing to resume",
            remedy=f"`backfill enqueue {run.job}` begins a new one.",
        )


def _refuse_what_nothing_pauses(desk: Desk, run: Run, *, accepts: bool) -> None:
    """A local run whose process is gone may go on; another one only with a change to accept."""
    if run.executor != "local":
        if accepts:
            return
        raise RefusedError(
            f"run {run.id} is {run.state}: nothing pauses it",
            remedy=f"`backfill status {run.id}` says what limits it.",
        )
    if totals(desk.conn, desk.ledger, run.id).held:
        raise RefusedError(
            f"a process works on run {run.id}: nothing pauses it",
            remedy="Press Ctrl-C there first; a process that was killed is noticed in a moment.",
        )


def _accept(desk: Desk, run: Run, declaration: Declaration, *, by: str) -> None:
    """Give the run the declaration as it is now.

    Raises:
        RefusedError: the change is one that a run in its middle cannot follow.
        UsageError: the parameters of the run no longer fit.
    """
    if other := fixed_changes(run, declaration):
        back, new = remedies(run, declaration)
        raise RefusedError(
            f"job {run.job} has another {other} than when run {run.id} began; its slices would"
            " mean other rows",
            remedy=f"{new[0].upper()}{new[1:]}, or {back}.",
        )
    declaration.complete_params(declaration.params_from_json(run.params))
    control.accept_changes(
        desk.conn,
        desk.ledger,
        run.id,
        fingerprint=declaration.fingerprint(),
        declaration=declaration.describe(),
        version=declaration.version,
        by=by,
    )


def _require_workers(project: Project, run: Run) -> None:
    """A run that is handed over needs a broker: better refused than stranded."""
    try:
        require_broker(project)
    except ProjectError as error:
        raise ProjectError(
            f"run {run.id} would go on with workers, and {error.message}",
            remedy=f"{error.remedy} Or go on in a process: `backfill run {run.job}`.",
        ) from error
