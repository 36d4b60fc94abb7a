"""`backfill stop-all` and `start-all`: the operator's red button, through the ledgers alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from backfill.cli.boundary import shown
from backfill.cli.options import yes_option
from backfill.cli.session import Session, pass_session
from backfill.cli.tell import tell
from backfill.errors import BackfillError, ExitCode, UnreachableError, as_told

if TYPE_CHECKING:
    from backfill.project import Desk


@click.command("stop-all")
@click.option("--reason", metavar="TEXT", help="Shown by status and events.")
@yes_option
@pass_session
def stop_all(session: Session, reason: str | None, yes: bool) -> int:
    """Pause every run, and each new one, until `start-all`.

    Through the ledger of every database; Redis is not needed. The batches in hand are finished. A
    database that does not answer is named, and the others are stopped all the same.
    """
    from backfill import operate
    from backfill.engine.enqueue import person

    is_any_stopped = False

    def stop(desk: Desk) -> None:
        nonlocal is_any_stopped
        tell(operate.stop_all(desk, reason=reason, by=person()))
        is_any_stopped = True

    code = _everywhere(session, stop, yes=yes)
    if is_any_stopped:
        click.echo("they go on with `backfill start-all`", err=True)
    return code


@click.command("start-all")
@yes_option
@pass_session
def start_all(session: Session, yes: bool) -> int:
    """Let the runs go on that `stop-all` has paused."""
    from backfill import operate
    from backfill.engine.enqueue import person

    def start(desk: Desk) -> None:
        tell(operate.start_all(session.project, desk, by=person()))

    return _everywhere(session, start, yes=yes)


def _everywhere(session: Session, act: Callable[[Desk], None], *, yes: bool) -> ExitCode:
    """In each database of the project; what cannot be reached keeps none of the others back."""
    failures: list[BackfillError] = []
    for database in session.project.settings.ledgers:
        try:
            session.confirm_write(database, yes=yes)
            with session.desk(database) as desk:
                act(desk)
        except click.exceptions.Abort:
            raise
        # whatever it is, the other databases must be stopped, too
        except Exception as error:  # noqa: BLE001
            told = as_told(error)
            failures.append(told)
            click.echo(shown(f"error: {database}: {told.message}"), err=True)
            if told.remedy:
                click.echo(shown(told.remedy), err=True)
    if any(isinstance(failure, UnreachableError) for failure in failures):
        return ExitCode.UNREACHABLE
    return failures[0].exit_code if failures else ExitCode.DONE
