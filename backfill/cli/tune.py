"""`backfill tune`: how a run works, changed while it works."""

from __future__ import annotations

import click

from backfill.cli.options import Assignment, assignments, overrides, run_argument, yes_option
from backfill.cli.session import Session, pass_session
from backfill.cli.tell import tell


@click.command()
@run_argument
@click.option(
    "--rate", metavar="RATE", help="Rows per second over all workers, such as 2000/s, or none."
)
@click.option("--concurrency", metavar="N", help="Slices worked on at once.")
@click.option("--batch-rows", metavar="N", help="Rows a batch, or auto.")
@click.option("--duty", metavar="SHARE", help="The share of its time a slot works, 0.01 to 1.")
@click.option("--window", metavar="WINDOW", help='Such as "22:00-06:00 Europe/Berlin", or none.')
@click.option("--start-at", metavar="INSTANT", help="Not before this instant, or none.")
@click.option("--until", metavar="INSTANT", help="Not after this instant, or none.")
@click.option(
    "--set",
    "settings",
    callback=assignments,
    multiple=True,
    metavar="OPTION=VALUE",
    help="Any other option of the run, such as max_batch_rows=500; may be repeated.",
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
) -> int:
    """Change how a live run works, within two seconds.

    Each slot finishes the batch in hand first. `none` takes a rate, a window or a time away.
    """
    from backfill import operate
    from backfill.engine.enqueue import person

    changes = operate.changes_of(
        overrides(
            settings,
            rate=rate,
            concurrency=concurrency,
            batch_rows=batch_rows,
            duty=duty,
            window=window,
            start_at=start_at,
            until=until,
        )
    )
    with session.run(run_text, database) as (desk, run):
        session.confirm_write(desk.database, yes=yes)
        return tell(operate.tune(session.project, desk, run, changes, by=person()))
