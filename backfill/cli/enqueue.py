"""`backfill enqueue`: a run for the workers."""

from __future__ import annotations

import math

import click

from backfill.cli.ending import code_of, in_order
from backfill.cli.options import (
    Assignment,
    bounds_options,
    collected,
    job_options,
    overrides,
    yes_option,
)
from backfill.cli.session import Session, pass_session
from backfill.errors import ExitCode, OutputError, UsageError


@click.command()
@job_options
@bounds_options
@click.option("--wait", is_flag=True, help="Show it until it ends, and exit with its code.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="With --wait: the longest wait; then the exit code is 7, and the run goes on.",
)
@yes_option
@pass_session
def enqueue(
    session: Session,
    *,
    job: str,
    params: tuple[Assignment, ...],
    settings: tuple[Assignment, ...],
    rate: str | None,
    window: str | None,
    start_at: str | None,
    until: str | None,
    concurrency: str | None,
    batch_rows: str | None,
    gentle: bool,
    database: str | None,
    from_key: str | None,
    to_key: str | None,
    limit: int | None,
    wait: bool,
    timeout: float | None,
    yes: bool,
) -> int:
    """Enqueue a run of a job for the workers, and print its id."""
    if timeout is not None and not wait:
        raise UsageError("--timeout says how long to wait", remedy="Give --wait with it.")
    if timeout is not None and math.isnan(timeout):
        raise UsageError("--timeout nan is no number of seconds", remedy="Give one, such as 600.")
    given = overrides(
        settings,
        rate=rate,
        window=window,
        start_at=start_at,
        until=until,
        concurrency=concurrency,
        batch_rows=batch_rows,
        database=database,
    )
    from backfill.engine.enqueue import person
    from backfill.entry import enqueue_in
    from backfill.job import Bounds
    from backfill.worker.installed import require_broker

    declaration = session.project.declaration(job)
    own = declaration.options.gentle() if gentle else declaration.options
    options = own.replace_from_text(given)
    values = declaration.parse_params(collected(params, what="parameter"))
    require_broker(session.project)
    session.confirm_write(declaration.home(options), yes=yes)
    done = enqueue_in(
        session.project,
        declaration,
        params=values,
        options=options,
        bounds=Bounds(from_key=from_key, to_key=to_key, limit=limit),
        by=person(),
    )
    # the id alone on standard output: RUN=$(backfill enqueue …)
    try:
        click.echo(done.run.id)
    except OutputError:
        click.echo(
            f"{done.run.id} is enqueued: watch it with `backfill watch {done.run.id}`", err=True
        )
        raise
    for warning in done.warnings:
        click.echo(f"warning: {warning}", err=True)
    if not done.sent:
        click.echo(done.sent.warning("workers take the run up"), err=True)
    if not done.workers:
        click.echo("no worker is running: start one with `backfill worker`", err=True)
    if wait:
        return _wait(session, declaration.home(options), done.run.id, timeout)
    click.echo(f"watch it with `backfill watch {done.run.id}`", err=True)
    return ExitCode.DONE


def _wait(session: Session, database: str, run: str, timeout: float | None) -> int:
    from backfill.cli.live import follow
    from backfill.cli.watch import left_alone, needs_a_person

    try:
        with in_order(), session.desk(database) as desk:
            return follow(
                session.project, desk, run, is_over=needs_a_person, timeout_seconds=timeout
            )
    except KeyboardInterrupt as error:
        click.echo(left_alone(run), err=True)
        return code_of(error)
