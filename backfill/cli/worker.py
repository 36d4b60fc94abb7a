"""`backfill worker`: a Celery worker of ours, with the reconciler beside it."""

from __future__ import annotations

from typing import get_args

import click

from backfill.cli.options import Whole
from backfill.cli.session import Session, pass_session
from backfill.errors import UsageError
from backfill.settings import LogLevel

_PORT_VARIABLE = "BACKFILL_METRICS_PORT"


@click.command(context_settings={"ignore_unknown_options": False})
@click.option(
    "--concurrency",
    "-c",
    type=Whole(1, 256),
    default=2,
    show_default=True,
    metavar="N",
    help="Slices that this worker works on at once.",
)
@click.option(
    "--pool",
    type=click.Choice(["prefork", "solo", "threads"]),
    default="prefork",
    show_default=True,
    help="Processes, this process alone, or threads.",
)
@click.option("--name", "-n", metavar="NAME", help="Its name; %h is the host. One per worker.")
@click.option(
    "--loglevel",
    "-l",
    type=click.Choice(get_args(LogLevel), case_sensitive=False),
    help="Of our log and Celery's; else what the settings say.",
)
@click.option(
    "--metrics-port",
    type=Whole(1, 65535),
    metavar="N",
    help=f"Where Prometheus can read metrics; else what {_PORT_VARIABLE} says. Without: nowhere.",
)
@click.option(
    "--metrics-address",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    help="The address of this host at which they can be read.",
)
@click.argument("celery_arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- CELERY...]")
@pass_session
def worker(
    session: Session,
    *,
    concurrency: int,
    pool: str,
    name: str | None,
    loglevel: str | None,
    metrics_port: int | None,
    metrics_address: str,
    celery_arguments: tuple[str, ...],
) -> int:
    """Work on enqueued runs until told to stop.

    On SIGTERM the batch in hand is finished, its slice goes back, and the worker ends. What
    follows -- goes to `celery worker`.
    """
    from backfill.watch.logs import configure
    from backfill.worker.installed import require_broker
    from backfill.worker.main import start

    settings = session.project.settings
    if given := [one for one in celery_arguments if one.startswith(("-A", "--app"))]:
        raise UsageError(
            f"{given[0]} would name another application than this project's",
            remedy="Say celery_app in the settings, where it is one of your own.",
        )
    require_broker(session.project)
    level = loglevel or settings.log_level
    configure(settings.log_format, level)
    return start(
        session.project,
        [
            f"--concurrency={concurrency}",
            f"--pool={pool}",
            f"--loglevel={level}",
            *([] if name is None else [f"--hostname={name if '@' in name else f'{name}@%h'}"]),
            *celery_arguments,
        ],
        metrics_address=metrics_address,
        metrics_port=metrics_port or _port_of(session.project.environ.get(_PORT_VARIABLE)),
    )


def _port_of(text: str | None) -> int | None:
    """What the variable says, which may stand in the project's .env, too."""
    if not text:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise UsageError(f"{_PORT_VARIABLE} is no port: {text!r}", remedy="A number to 65535.")
    return int(text)
