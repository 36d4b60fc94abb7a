"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click

from backfill.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

Assignment = tuple[str, str]


class Whole(click.IntRange):
    """A whole number between bounds; click's own errors call it an integer range."""

    name = "whole number"


def assignments(
    ctx: click.Context, param: click.Parameter, values: Sequence[str]
) -> tuple[Assignment, ...]:
    """`name=value`; the value may be empty and may contain "="."""
    found = []
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise click.BadParameter(f"{text!r} is not of the form name=value", ctx, param)
        found.append((name.strip(), value))
    return tuple(found)


def instant(ctx: click.Context, param: click.Parameter, text: str | None) -> str | None:
    """An option's instant to come: ISO 8601 with an offset, because a wall time alone is many."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text.strip())
        here = found.astimezone()
    except (ValueError, OverflowError):
        right = datetime.now().astimezone().replace(microsecond=0, second=0) + timedelta(hours=1)
        raise click.BadParameter(
            f'{text!r} is no instant; write it like "{right.isoformat()}"', ctx, param
        ) from None
    if found.utcoffset() is None:
        raise click.BadParameter(
            f"{text!r} does not say in which time zone; by this machine's it is \""
            f'{here.isoformat()}", in UTC "{found.isoformat()}Z"',
            ctx,
            param,
        )
    if found <= datetime.now(UTC):
        raise click.BadParameter(f"{text!r} has passed", ctx, param)
    return found.isoformat()


params_option = click.option(
    "-p",
    "--param",
    "params",
    callback=assignments,
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter of the job, such as since=2014; may be repeated.",
)
set_option = click.option(
    "--set",
    "settings",
    callback=assignments,
    multiple=True,
    metavar="OPTION=VALUE",
    help="One of the job's options for this run, such as slice_rows=10000; may be repeated.",
)


def job_options(function: F) -> F:
    """The job, its parameters, and how this run is to work: for `run` and `enqueue`."""
    decorators = [
        click.argument("job", metavar="JOB"),
        params_option,
        set_option,
        click.option(
            "--rate", metavar="RATE", help="Rows per second over all workers, such as 5000/s."
        ),
        click.option("--window", metavar="WINDOW", help='Such as "22:00-06:00 Europe/Berlin".'),
        click.option(
            "--start-at",
            callback=instant,
            metavar="INSTANT",
            help='Not before it, such as "2026-12-01T22:00+01:00".',
        ),
        click.option(
            "--until",
            callback=instant,
            metavar="INSTANT",
            help="Not after it: what is not done by then pauses.",
        ),
        click.option("--concurrency", metavar="N", help="Slices worked on at once."),
        click.option("--batch-rows", metavar="N", help="Rows a batch, or auto."),
        click.option(
            "--gentle", is_flag=True, help="Short batches, with rests between them; slower."
        ),
        click.option("--database", metavar="NAME", help="A database of the project's settings."),
    ]
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def bounds_options(function: F) -> F:
    """Which part of its rows a run takes: for `run` and `enqueue`."""
    decorators = [
        click.option(
            "--from",
            "from_key",
            metavar="KEY",
            help="The first key that is taken; of several columns as a JSON array.",
        ),
        click.option(
            "--to", "to_key", metavar="KEY", help="The first key that is not taken any more."
        ),
        click.option(
            "--limit", type=Whole(1, 2**63 - 1), metavar="N", help="At most so many rows."
        ),
    ]
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


def run_argument(function: F) -> F:
    """The run that is meant, and where to look for it."""
    function = click.option(
        "--database", metavar="NAME", help="Look in this database of the project only."
    )(function)
    return click.argument("run_text", metavar="[RUN]", required=False)(function)


def number_option(
    *names: str, most: int, default: int, told: str, least: int = 1
) -> Callable[[F], F]:
    """An option that says how many, with what it is where it is not given.

    Args:
        told: its help.
    """
    return click.option(
        *names,
        type=Whole(least, most),
        default=default,
        show_default=True,
        metavar="N",
        help=told,
    )


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
yes_option = click.option("--yes", "-y", is_flag=True, help="Do not ask.")


def collected(assignments: Sequence[Assignment], *, what: str) -> dict[str, str]:
    """The assignments by name.

    Raises:
        UsageError: a name is given twice.
    """
    found: dict[str, str] = {}
    for name, value in assignments:
        if name in found:
            raise UsageError(f"the {what} {name} is given twice", remedy="Give it once.")
        found[name] = value
    return found


def overrides(settings: Sequence[Assignment], **flags: str | None) -> dict[str, str]:
    """What `--set` and its convenient forms say, by the option's name.

    Raises:
        UsageError: an option is given twice, or `until` has passed.
    """
    given = [(name, value) for name, value in flags.items() if value is not None]
    found = collected([*settings, *given], what="option")
    if (until := found.get("until")) is not None and _has_passed(until):
        raise UsageError(
            f"until {until!r} has passed: the run would pause at once",
            remedy="Name an instant to come.",
        )
    return found


def _has_passed(text: str) -> bool:
    """Whether it is an instant of the past; what is none is told by who reads the options."""
    try:
        instant = datetime.fromisoformat(text.strip())
        return instant.utcoffset() is not None and instant <= datetime.now(UTC)
    except (ValueError, OverflowError):
        return False
