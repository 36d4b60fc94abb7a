"""`backfill schedule`: runs that begin by the clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from backfill.cli import show
from backfill.cli.options import (
    Assignment,
    collected,
    instant,
    json_option,
    number_option,
    overrides,
    params_option,
    set_option,
    yes_option,
)
from backfill.cli.session import Session, pass_session
from backfill.cli.tell import say_done
from backfill.errors import UsageError

if TYPE_CHECKING:
    from backfill.pg.schedules import IfMissed, IfRunning, Schedule
    from backfill.project import Desk

_database_option = click.option(
    "--database", metavar="NAME", help="Look in this database of the project only."
)


@click.group()
def schedule() -> None:
    """Let runs begin by the clock: recurring, or once."""


@schedule.command()
@click.argument("name", metavar="NAME")
@click.argument("job", metavar="JOB")
@click.option(
    "--cron",
    metavar="CRON",
    help='When it recurs, such as "0 22 * * Mon-Fri": minute, hour, day of month, month, day of'
    " week.",
)
@click.option("--zone", metavar="ZONE", help="Whose clock --cron means; UTC if not given.")
@click.option(
    "--at", callback=instant, metavar="INSTANT", help='Once, such as "2026-12-01T22:00+01:00".'
)
@params_option
@set_option
@click.option("--database", metavar="NAME", help="A database of the project's settings.")
@click.option(
    "--if-running",
    type=click.Choice(["skip", "queue"]),
    default="skip",
    show_default=True,
    help="A tick while the job has a live run: skip it, or start when that has ended.",
)
@click.option(
    "--if-missed",
    type=click.Choice(["skip", "run"]),
    default="skip",
    show_default=True,
    help="Ticks that no worker was there for: skip them, or run once for all.",
)
@yes_option
@pass_session
def add(
    session: Session,
    *,
    name: str,
    job: str,
    cron: str | None,
    zone: str | None,
    at: str | None,
    params: tuple[Assignment, ...],
    settings: tuple[Assignment, ...],
    database: str | None,
    if_running: IfRunning,
    if_missed: IfMissed,
    yes: bool,
) -> None:
    """Add a schedule for a job; workers start its runs."""
    if (cron is None) == (at is None):
        raise UsageError(
            "a schedule has either --cron or --at",
            remedy='Give --cron "0 22 * * Mon-Fri" --zone Europe/Berlin, or --at INSTANT.',
        )
    if zone is not None and cron is None:
        raise UsageError("--zone is for --cron", remedy="--at has its offset in itself.")
    from backfill.cron import Cron
    from backfill.engine import schedule as schedules
    from backfill.engine.enqueue import person

    when = (
        datetime.fromisoformat(at)
        if at is not None
        else Cron.parse(cron or "", "UTC" if zone is None else zone)
    )
    options = overrides(settings, database=database)
    declaration = session.project.declaration(job)
    chosen = declaration.options.replace_from_text(options)
    values = declaration.parse_params(collected(params, what="parameter"))
    home = declaration.home(chosen)
    session.confirm_write(home, yes=yes)
    with session.desk(home) as desk:
        first = schedules.add(
            desk.conn,
            desk.ledger,
            declaration,
            name=name,
            params=values,
            options=options,
            when=when,
            if_running=if_running,
            if_missed=if_missed,
            by=person(),
        )
    say_done(f"{name}: {declaration.name} begins first at {_told(first, when)}")


@schedule.command("list")
@_database_option
@json_option
@pass_session
def list_schedules(session: Session, database: str | None, as_json: bool) -> None:
    """List the schedules, and what became of their last ticks.

    JSON: {"schedules": [{"name", "job", "database", "params", "options", "cron", "zone", "at",
    "if_running", "if_missed", "created_by", "created_at", "next_at", "waiting_tick", "last_tick",
    "last_outcome", "last_reason", "last_run"}]}.
    """
    with _all(session, database) as found:
        rows = [(desk.database, each) for desk, schedules in found for each in schedules]
    if as_json:
        show.as_json({"schedules": [_to_json(name, each) for name, each in rows]})
    elif rows:
        show.table(["NAME", "JOB", "WHEN", "NEXT", "LAST"], [_row(each) for _, each in rows])
    else:
        click.echo("there are no schedules: `backfill schedule add` makes one")


@schedule.command()
@click.argument("name", metavar="NAME")
@_database_option
@yes_option
@pass_session
def remove(session: Session, name: str, database: str | None, yes: bool) -> None:
    """Remove a schedule; runs that it has started stay."""
    from backfill.engine import schedule as schedules
    from backfill.engine.enqueue import person

    with _all(session, database) as found:
        desk, _ = _named(found, name)
        session.confirm_write(desk.database, yes=yes)
        schedules.remove(desk.conn, desk.ledger, name, by=person())
    say_done(f"{name} is removed; runs that it has started stay")


@schedule.command("next")
@click.argument("name", metavar="[NAME]", required=False)
@number_option("--count", most=1000, default=5, told="So many ticks.")
@_database_option
@json_option
@pass_session
def next_ticks(
    session: Session, name: str | None, count: int, database: str | None, as_json: bool
) -> None:
    """Show the next ticks, of one schedule or of all.

    JSON: {"ticks": [{"schedule", "job", "at"}]}.
    """
    from datetime import UTC

    from backfill.engine import schedule as schedules

    with _all(session, database) as found:
        if name is None:
            chosen = [each for _, listed in found for each in listed]
        else:
            chosen = [_named(found, name)[1]]
    ticks = schedules.upcoming(chosen, datetime.now(UTC), count=count)
    if as_json:
        listed = [
            {"schedule": each.name, "job": each.job, "at": show.utc(at)} for at, each in ticks
        ]
        show.as_json({"ticks": listed})
    elif ticks:
        rows = [[_told(at, each.recurrence or each.at), each.name, each.job] for at, each in ticks]
        show.table(["AT", "SCHEDULE", "JOB"], rows)
    else:
        click.echo("nothing will tick" if name is None else f"{name} will not tick any more")


Found = list[tuple["Desk", list["Schedule"]]]


@contextmanager
def _all(session: Session, database: str | None) -> Iterator[Found]:
    """The schedules of each database of the project, or of this one, with their open desks."""
    from contextlib import ExitStack

    from backfill.pg.schedules import list_schedules as read

    with ExitStack() as stack:
        names = [database] if database is not None else list(session.project.settings.ledgers)
        desks = [stack.enter_context(session.desk(name)) for name in names]
        yield [(desk, read(desk.conn, desk.ledger)) for desk in desks]


def _named(found: Found, name: str) -> tuple[Desk, Schedule]:
    """The schedule of that name.

    Raises:
        UsageError: there is none, or one in several databases.
    """
    from backfill.job.suggestion import did_you_mean

    fitting = [(desk, each) for desk, listed in found for each in listed if each.name == name]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        listed = ", ".join(desk.database for desk, _ in fitting)
        raise UsageError(
            f"there is a schedule {name} in each of these databases: {listed}",
            remedy="Say which one you mean with --database.",
        )
    known = [each.name for _, listed in found for each in listed]
    raise UsageError(f"there is no schedule {name!r}", remedy=did_you_mean(name, known))


def _told(at: datetime, when: object) -> str:
    """In the schedule's own zone, with its offset; of one that ticks once as it was typed."""
    from zoneinfo import ZoneInfo

    from backfill.cron import Cron

    if isinstance(when, Cron):
        local = at.astimezone(ZoneInfo(when.zone))
        return f"{local:%a} {local.isoformat(sep=' ', timespec='minutes')} ({when.zone})"
    local = at.astimezone()
    return f"{local:%a} {local.isoformat(sep=' ', timespec='seconds')}"


def _row(each: Schedule) -> list[str]:
    last = ""
    if each.last_tick is not None:
        what = f"{each.last_outcome} {each.last_run}" if each.last_outcome == "started" else ""
        reason = f": {each.last_reason}" if each.last_reason else ""
        last = f"{show.local_time(each.last_tick)} {what or each.last_outcome}{reason}"
    return [
        each.name,
        each.job,
        f"{each.cron} {each.zone}" if each.at is None else f"once, {show.local_time(each.at)}",
        "none any more" if each.next_at is None else show.local_time(each.next_at),
        last,
    ]


def _to_json(database: str, each: Schedule) -> dict[str, Any]:
    from dataclasses import asdict

    return {"name": each.name, "job": each.job, "database": database} | asdict(each)
