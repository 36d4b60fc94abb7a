"""`backfill watch`: a run as it goes, to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from backfill.cli.live import follow
from backfill.cli.options import json_option, run_argument
from backfill.cli.session import Session, pass_session
from backfill.errors import ExitCode
from backfill.model import PauseCause

if TYPE_CHECKING:
    from backfill.watch.progress import Progress

#: What no clock and no signal ends.
_OF_PEOPLE = {
    PauseCause.USER,
    PauseCause.ERROR,
    PauseCause.CHANGED_JOB,
    PauseCause.QUARANTINE,
    PauseCause.STOP_ALL,
}


def has_ended(progress: Progress) -> bool:
    """True when it is at its end, or only its quarantine is left."""
    causes = {pause.cause for pause in progress.pauses}
    return not progress.run.run_state.is_live or PauseCause.QUARANTINE in causes


def needs_a_person(progress: Progress) -> bool:
    """True when it is at its end, or stands until somebody does something."""
    return (
        not progress.run.run_state.is_live
        or any(pause.cause in _OF_PEOPLE for pause in progress.pauses)
        or progress.is_past_until
    )


@click.command()
@run_argument
@json_option
@pass_session
def watch(session: Session, run_text: str | None, database: str | None, as_json: bool) -> int:
    """Show a run until it ends; exit with its code.

    Ctrl-C leaves the run alone. With --json, each line is the run as `status RUN --json` has it,
    without "database" and "quarantine", when it changes, at most each second.
    """
    with session.run(run_text, database) as (desk, run):
        try:
            return follow(session.project, desk, run.id, is_over=has_ended, as_json=as_json)
        except KeyboardInterrupt:
            click.echo(
                f"the run is left alone; watch it again with `backfill watch {run.id}`", err=True
            )
            return ExitCode.INTERRUPTED
