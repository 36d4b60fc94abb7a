"""`backfill pause`, `resume`, `cancel`, `retry`: what a person does to a run."""

from __future__ import annotations

import sys

import click

from backfill.cli.options import run_argument, yes_option
from backfill.cli.session import Session, ask, pass_session
from backfill.cli.tell import tell
from backfill.streams import is_terminal


@click.command()
@run_argument
@click.option("--reason", metavar="TEXT", help="Shown by status and events.")
@yes_option
@pass_session
def pause(
    session: Session, run_text: str | None, database: str | None, reason: str | None, yes: bool
) -> int:
    """Pause a run; the batches in hand are finished."""
    from backfill import operate
    from backfill.engine.enqueue import person

    with session.run(run_text, database) as (desk, run):
        session.confirm_write(desk.database, yes=yes)
        return tell(operate.pause(desk, run, reason=reason, by=person()))


@click.command()
@run_argument
@click.option("--reason", metavar="TEXT", help="Shown by events.")
@yes_option
@pass_session
def cancel(
    session: Session, run_text: str | None, database: str | None, reason: str | None, yes: bool
) -> int:
    """End a run for good; what it has written stays."""
    from backfill import operate
    from backfill.engine.enqueue import person

    with session.run(run_text, database) as (desk, run):
        session.confirm_write(desk.database, yes=yes)
        asked_already = session.project.settings.database(desk.database).confirm
        if run.run_state.is_live and not yes and not asked_already and is_terminal(sys.stdin):
            ask(f"End {run.id} ({run.state}) for good?")
        return tell(operate.cancel(desk, run, reason=reason, by=person()))


@click.command()
@run_argument
@yes_option
@pass_session
def retry(session: Session, run_text: str | None, database: str | None, yes: bool) -> int:
    """Take a failed run up again where it stopped."""
    from backfill import operate
    from backfill.engine.enqueue import person

    with session.failed_run(run_text, database) as (desk, run):
        session.confirm_write(desk.database, yes=yes)
        return tell(operate.retry(session.project, desk, run, by=person()))


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
    from backfill import operate
    from backfill.engine.enqueue import person

    with session.run(run_text, database) as (desk, run):
        session.confirm_write(desk.database, yes=yes)
        told = operate.resume(
            session.project, desk, run, accept_changes=accept_changes, by=person()
        )
        return tell(told)
