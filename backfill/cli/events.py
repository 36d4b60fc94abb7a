"""`backfill events`: what happened to a run, who or what caused it, and when (I7)."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from backfill.cli import show
from backfill.cli.ending import code_of, ends_in_order
from backfill.cli.options import json_option, number_option, run_argument
from backfill.cli.plain import plain
from backfill.cli.session import Session, pass_session
from backfill.errors import ExitCode

if TYPE_CHECKING:
    from backfill.pg.ledger import EventRecord
    from backfill.project import Desk

#: How often `--follow` asks the ledger.
FOLLOW_SECONDS = 0.5


@click.command()
@run_argument
@click.option("--follow", "-f", is_flag=True, help="Go on with new events until the run ends.")
@number_option("--limit", most=100_000, default=1000, told="The newest so many.")
@json_option
@pass_session
@ends_in_order
def events(
    session: Session,
    *,
    run_text: str | None,
    database: str | None,
    follow: bool,
    limit: int,
    as_json: bool,
) -> int:
    """Show a run's events, oldest first.

    JSON: one object a line: {"id", "run", "at", "name", "caused_by", "detail"}.
    """
    with session.run(run_text, database) as (desk, run):
        last = _print(desk, run.id, after=0, limit=limit, as_json=as_json)
        try:
            while follow:
                # the state first: what happened before it is then read for certain
                is_live = _is_live(desk, run.id)
                last = _print(desk, run.id, after=last, limit=limit, as_json=as_json)
                if not is_live:
                    break
                time.sleep(FOLLOW_SECONDS)
        except KeyboardInterrupt as error:
            again = f"`backfill events {run.id} --follow`"
            click.echo(f"the run is left alone; follow it again with {again}", err=True)
            return code_of(error)
    return ExitCode.DONE


def _is_live(desk: Desk, run: str) -> bool:
    from backfill.pg.ledger import get_run

    return get_run(desk.conn, desk.ledger, run).run_state.is_live


def _print(desk: Desk, run: str, *, after: int, limit: int, as_json: bool) -> int:
    """Print the events after that one; returns the last one's id."""
    from backfill.pg.ledger import events as read_events

    for event in read_events(desk.conn, desk.ledger, run, after=after, limit=limit):
        click.echo(show.json_line(_to_json(event)) if as_json else _line(event))
        after = event.id
    return after


def _line(event: EventRecord) -> str:
    detail = "  ".join(f"{name}={_value(value)}" for name, value in event.detail.items())
    line = f"{show.local_time(event.at)}  {event.name:<20} {detail}  by {event.caused_by}"
    return plain(line)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _to_json(event: EventRecord) -> dict[str, Any]:
    return {
        "id": event.id,
        "run": event.run,
        "at": show.utc(event.at),
        "name": event.name,
        "caused_by": event.caused_by,
        "detail": dict(event.detail),
    }
