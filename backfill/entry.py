"""`backfill.enqueue` and `backfill.run`: what the command line does, as functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from backfill.clock import SystemClock
from backfill.engine import lifecycle
from backfill.engine.bench import Bench, Observer, holder_name, run_info
from backfill.engine.changed import fixed_changes
from backfill.engine.enqueue import create_run, person
from backfill.engine.here import Crew
from backfill.engine.pace import LocalLimiter
from backfill.errors import RefusedError
from backfill.job import Bounds, Job, Options
from backfill.job.declaration import Declaration, declaration_of
from backfill.model import PauseCause, RunInfo
from backfill.pg.bounds import is_same
from backfill.pg.connect import Connection
from backfill.pg.ledger import Run, get_run, live_runs, totals, workers
from backfill.pg.presence import process_name
from backfill.project import Desk, Project, job_class_of
from backfill.watch.progress import WORKER_SECONDS
from backfill.worker.beside import Beside
from backfill.worker.installed import project_here
from backfill.worker.notices import Notices
from backfill.worker.sent import Sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Enqueued:
    """A run that workers will take up.

    Attributes:
        sent: whether Redis took the messages; if not, workers find the run when it is back.
        workers: how many were seen in the last seconds.
    """

    run: Run
    warnings: tuple[str, ...]
    sent: Sent
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """A run that this process works on, once its crew is started.

    Attributes:
        notices: to be entered around the crew's work and what follows it, such as a pause for its
            error, of which people are to be told, too.
    """

    run: Run
    desk: Desk
    warnings: tuple[str, ...]
    continued: bool
    crew: Crew
    notices: Notices


def enqueue_in(
    project: Project,
    declaration: Declaration,
    *,
    params: Mapping[str, object],
    options: Options | None,
    by: str,
    bounds: Bounds | None = None,
) -> Enqueued:
    """Write a run into the ledger and send its first message.

    Raises:
        BackfillError: the preflight refuses, or something does not answer.
    """
    from backfill.worker.app import app_of  # Celery takes a while to import
    from backfill.worker.send import send_slots

    app_of(project)  # what it refuses is refused before anything is written
    chosen = options or declaration.options
    desk = project.open(declaration.home(chosen))
    try:
        with project.source(declaration, chosen) as source_conn:
            run, found = create_run(
                desk.conn,
                desk.ledger,
                declaration,
                params=params,
                options=chosen,
                bounds=bounds,
                executor="celery",
                by=by,
                environ=project.environ,
                source_conn=source_conn,
            )
        return Enqueued(
            run=run,
            warnings=found.warnings,
            sent=send_slots(project, desk, run),
            workers=len(workers(desk.conn, desk.ledger, within_seconds=WORKER_SECONDS)),
        )
    finally:
        desk.conn.close()


def start_here(
    project: Project,
    declaration: Declaration,
    *,
    params: Mapping[str, object],
    options: Options | None,
    by: str,
    bounds: Bounds | None = None,
    observer: Observer | None = None,
) -> Here:
    """Make a run for this process, or take up the job's own that an earlier process left.

    The caller enters the notices, starts the crew, waits for it, and closes the desk.

    Raises:
        BackfillError: the preflight refuses, or the job's live run is another's.
    """
    chosen = options or declaration.options
    desk = project.open(declaration.home(chosen))
    try:
        with project.source(declaration, chosen) as source_conn:
            keys = source_conn or desk.conn
            run = _left_behind(desk, declaration, params, bounds or Bounds(), keys=keys, by=by)
            continued = run is not None
            warnings: tuple[str, ...] = ()
            if run is None:
                run, found = create_run(
                    desk.conn,
                    desk.ledger,
                    declaration,
                    params=params,
                    options=chosen,
                    bounds=bounds,
                    executor="local",
                    by=by,
                    environ=project.environ,
                    source_conn=source_conn,
                )
                warnings = found.warnings
        return Here(
            run=run,
            desk=desk,
            warnings=warnings,
            continued=continued,
            crew=_crew(project, desk, run, declaration, observer),
            notices=Notices(project, [desk.database], name=holder_name()),
        )
    except BaseException:
        desk.conn.close()
        raise


def _crew(
    project: Project, desk: Desk, run: Run, declaration: Declaration, observer: Observer | None
) -> Crew:
    clock = SystemClock()
    limiter = LocalLimiter(clock)
    # by which others see that somebody works on it
    desk = replace(desk, application_name=process_name(run.id))

    def make(stopping: Callable[[], bool]) -> Bench:
        return project.bench(
            desk,
            run,
            declaration,
            clock=clock,
            limiter=limiter,
            observer=observer,
            stopping=stopping,
        )

    return Crew(
        make,
        size=Options.from_json(run.options).concurrency,
        clock=clock,
        beside=Beside(project, [desk.database], name=holder_name()),
    )


def _left_behind(
    desk: Desk,
    declaration: Declaration,
    params: Mapping[str, object],
    bounds: Bounds,
    *,
    keys: Connection,
    by: str,
) -> Run | None:
    """The job's live local run, made to go on; None when there is none.

    Args:
        keys: to the database that reads the bounds' keys, which is the source's.
    """
    for run in live_runs(desk.conn, desk.ledger):
        if run.job != declaration.name:
            continue
        run.require_code()
        values = declaration.params_to_json(declaration.complete_params(params))
        why = (
            "on workers"
            if run.executor != "local"
            else "with other parameters"
            if dict(run.params) != values
            else "with other bounds"
            if not is_same(keys, run, bounds)
            else None
        )
        if why is not None:
            raise RefusedError(
                f"job {run.job} has a live run already: {run.id} ({run.state}, {why})",
                remedy=f"Watch it (backfill watch {run.id}) or end it (backfill cancel {run.id}).",
            )
        if run.fingerprint != declaration.fingerprint():
            raise RefusedError(
                f"the declaration of job {run.job} differs from the one that {run.id} began with",
                remedy=f"`backfill cancel {run.id}` ends it; a new run has another {other}."
                if (other := fixed_changes(run, declaration))
                else f"`backfill resume {run.id} --accept-changes` goes on with the new one,"
                f" `backfill cancel {run.id}` ends it.",
            )
        lifecycle.lift(desk.conn, desk.ledger, run.id, [PauseCause.USER, PauseCause.ERROR], by=by)
        return get_run(desk.conn, desk.ledger, run.id)
    return None


def enqueue(
    job: type[Job] | Job,
    /,
    *,
    options: Options | None = None,
    bounds: Bounds | None = None,
    **params: object,
) -> str:
    """Enqueue a run of a job for the workers.

    Args:
        options: in place of the job's own.
        bounds: which part of the rows it takes; None: all.
        params: values of the declared parameters.

    Returns:
        The run's id, such as `fill_departure-7f3k2`.

    Raises:
        BackfillError: see errors.py; nothing has been enqueued.
    """
    return enqueue_in(
        project_here(),
        declaration_of(job_class_of(job)),
        params=params,
        options=options,
        bounds=bounds,
        by=person(),
    ).run.id


def run(
    job: type[Job] | Job,
    /,
    *,
    options: Options | None = None,
    bounds: Bounds | None = None,
    **params: object,
) -> RunInfo:
    """Run a job in this process, to its end or until it pauses; no Redis, no worker.

    Args:
        options: in place of the job's own.
        bounds: which part of the rows it takes; None: all.
        params: values of the declared parameters.

    Returns:
        The run as it is then: look at its `state`.

    Raises:
        BackfillError: see errors.py.
    """
    here = start_here(
        project_here(),
        declaration_of(job_class_of(job)),
        params=params,
        options=options,
        bounds=bounds,
        by=person(),
    )
    try:
        with here.notices:
            here.crew.start()
            try:
                here.crew.join()
            except BaseException:
                here.crew.stop()
                here.crew.join()
                raise
        record = get_run(here.desk.conn, here.desk.ledger, here.run.id)
        return run_info(record, counts=totals(here.desk.conn, here.desk.ledger, record.id).counts)
    finally:
        here.desk.conn.close()
