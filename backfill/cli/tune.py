"""`backfill tune`: how a run works, changed while it works."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from backfill.cli.options import Assignment, assignments, overrides, run_argument, yes_option
from backfill.cli.session import Session, pass_session
from backfill.cli.tell import sent_or_warned
from backfill.errors import UsageError

if TYPE_CHECKING:
    from backfill.engine.control import Tuned
    from backfill.project import Desk, Project


@click.command()
@run_argument
@click.option("--rate", metavar="RATE", help="Rows per second, such as 2000/s, or none.")
@click.option("--concurrency", metavar="N", help="Slices worked on at once.")
@click.option("--batch-rows", metavar="N", help="Rows a batch, or auto.")
@click.option("--duty", metavar="SHARE", help="The share of its time a slot works, 0.01 to 1.")
@click.option("--window", metavar="WINDOW", help='Such as "22:00-06:00 Europe/Berlin", or none.')
@click.option("--start-at", metavar="TIME", help="Not before this instant, or none.")
@click.option("--until", metavar="TIME", help="Not after this instant, or none.")
@click.option(
    "--set",
    "settings",
    callback=assignments,
    multiple=True,
    metavar="OPTION=VALUE",
    help="Any other option of the run; may be repeated.",
)
@yes_option
@pass_session
def tune(
    session: Session,
    *,
    run_text: str | None,
    database: str | None,
    rate: str | None,
    concurrency: str | None,
    batch_rows: str | None,
    duty: str | None,
    window: str | None,
    start_at: str | None,
    until: str | None,
    settings: tuple[Assignment, ...],
    yes: bool,
) -> None:
    """Change how a live run works, within two seconds.

    Each slot finishes the batch in hand first. `none` takes a rate, a window or a time away.
    """
    given = overrides(
        settings,
        rate=rate,
        concurrency=concurrency,
        batch_rows=batch_rows,
        duty=duty,
        window=window,
        start_at=start_at,
        until=until,
    )
    if not given:
        raise UsageError(
            "there is nothing to change", remedy="Say what, such as `backfill tune --rate 2000/s`."
        )
    from backfill.engine import control
    from backfill.engine.enqueue import person

    with session.run(run_text, database) as (desk, run):
        session.confirm_write(desk.database, yes=yes)
        tuned = control.tune(desk.conn, desk.ledger, run.id, given, by=person())
        if not tuned.changes:
            click.echo(f"{run.id} works like that already")
        for name, (was, now) in sorted(tuned.changes.items()):
            click.echo(f"{run.id}: {name} {_told(was)} → {_told(now)}")
        if tuned.lifted:
            click.echo(f"{run.id}: its window is open now")
        if tuned.run.executor == "celery":
            _tell_workers(session.project, desk, tuned)


def _told(value: object) -> str:
    return "none" if value is None else str(value)


def _tell_workers(project: Project, desk: Desk, tuned: Tuned) -> None:
    """Messages for the slots that are new; without them the reconciler fills them (I3)."""
    from backfill.worker.send import send_slots, slots_of

    slots = slots_of(tuned.run)
    if not tuned.lifted:
        slots = [slot for slot in slots if slot >= tuned.before.concurrency]
    if not slots:
        return
    sent_or_warned(
        lambda: send_slots(project, desk, tuned.run, slots), otherwise="new slots are filled"
    )
