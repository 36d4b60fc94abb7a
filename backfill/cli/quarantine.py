"""`backfill quarantine`: rows that could not be processed, and what is to become of them."""

from __future__ import annotations

import click

from backfill.cli import show
from backfill.cli.options import json_option, number_option, run_argument, yes_option
from backfill.cli.plain import plain
from backfill.cli.session import Session, pass_session
from backfill.cli.tell import tell


@click.group()
def quarantine() -> None:
    """See and settle rows that could not be processed."""


@quarantine.command("list")
@run_argument
@number_option("--limit", most=1_000_000, default=1000, told="Rows at most.")
@json_option
@pass_session
def list_rows(
    session: Session, run_text: str | None, database: str | None, limit: int, as_json: bool
) -> None:
    """List the rows: key, SQLSTATE, message, since when.

    JSON: {"run", "open", "rows": [{"slice", "key", "sqlstate", "message", "accepted", "since"}]};
    a key is a list of its columns' texts, a sqlstate of null means that the transform refused it.
    """
    from backfill.pg.quarantine import open_quarantine, quarantined_rows

    with session.run(run_text, database) as (desk, run):
        rows = quarantined_rows(desk.conn, desk.ledger, run.id, limit=limit)
        waiting = open_quarantine(desk.conn, desk.ledger, run.id)
    if as_json:
        show.as_json(
            {
                "run": run.id,
                "open": waiting,
                "rows": [
                    {
                        "slice": row.slice,
                        "key": list(row.key),
                        "sqlstate": row.sqlstate,
                        "message": row.message,
                        "accepted": row.accepted,
                        "since": show.utc(row.since),
                    }
                    for row in rows
                ],
            }
        )
        return
    if not rows:
        click.echo(f"no row of {run.id} is in quarantine")
        return
    show.table(
        ["KEY", "SQLSTATE", "MESSAGE", "SINCE", ""],
        [
            [
                show.key_text(row.key),
                row.sqlstate or "-",
                plain(row.message),
                show.local_time(row.since),
                "accepted" if row.accepted else "",
            ]
            for row in rows
        ],
    )
    if waiting:
        click.echo(
            f"{waiting:,} wait: mend them and `backfill quarantine retry {run.id}`, or leave them"
            f" as they are: `backfill quarantine accept {run.id}`",
            err=True,
        )


@quarantine.command()
@run_argument
@yes_option
@pass_session
def retry(session: Session, run_text: str | None, database: str | None, yes: bool) -> int:
    """Take the rows again, now that they are mended."""
    from backfill import operate
    from backfill.engine.enqueue import person

    with session.run(run_text, database) as (desk, run):
        session.confirm_write(desk.database, yes=yes)
        return tell(operate.release_quarantine(session.project, desk, run, by=person()))


@quarantine.command()
@run_argument
@yes_option
@pass_session
def accept(session: Session, run_text: str | None, database: str | None, yes: bool) -> int:
    """Leave the rows as they are, for good."""
    from backfill import operate
    from backfill.engine.enqueue import person

    with session.run(run_text, database) as (desk, run):
        session.confirm_write(desk.database, yes=yes)
        return tell(operate.accept_quarantine(session.project, desk, run, by=person()))
