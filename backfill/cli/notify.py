"""`backfill notify`: the channels by which people are told of runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from backfill.cli.session import Session, pass_session
from backfill.errors import ExitCode, ProjectError, UsageError

if TYPE_CHECKING:
    from backfill.project import Project
    from backfill.settings_notify import Channel


@click.group()
def notify() -> None:
    """Try how people are told of runs."""


@notify.command()
@click.argument("name", metavar="[NAME]", required=False)
@pass_session
def test(session: Session, name: str | None) -> int:
    """Send a message now, and say what came back.

    By the channel of that name, else by each of the project. Needs no database. The message says
    that it is a test.

    Exit code 3: a variable holds no URL, or a command is not there. Else 4: a channel cannot be
    reached, or refuses the message.
    """
    from backfill.clock import SystemClock
    from backfill.engine.enqueue import person
    from backfill.watch.deliver import UndeliveredError, deliver
    from backfill.watch.message import trial

    project = session.project
    message = trial(by=person(), at=SystemClock().now())
    codes = {ExitCode.DONE}
    for channel in _chosen(project, name):
        try:
            told = deliver(
                channel, message, environ=project.environ, folder=project.settings.project
            )
        except ProjectError as error:
            codes.add(error.exit_code)
            click.echo(f"error: {channel.name}: {error}", err=True)
        except UndeliveredError as error:
            codes.add(ExitCode.UNREACHABLE)
            click.echo(f"error: {channel.name}: {error}", err=True)
            if error.output:
                click.echo(error.output, err=True)
        else:
            click.echo(f"{channel.name}: {told}")
    # what has to be mended first
    return ExitCode.PROJECT if ExitCode.PROJECT in codes else max(codes)


def _chosen(project: Project, name: str | None) -> list[Channel]:
    from backfill.settings_file import suggestion

    channels = project.settings.channels
    if not channels:
        raise ProjectError(
            "the project has no channel by which people are told",
            remedy='Add one to its settings: [notify.ops] with webhook_url_env = "SLACK_WEBHOOK",'
            ' or with command = ["notify-oncall"].',
        )
    if name is None:
        return list(channels.values())
    if name not in channels:
        raise UsageError(
            f'the project has no channel "{name}"{suggestion(name, channels)}',
            remedy=f"Its channels: {', '.join(channels)}.",
        )
    return [channels[name]]
