"""`backfill doctor`: whether all that a run needs is there, and set as it should be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from backfill.cli.options import json_option
from backfill.cli.session import Session, pass_session
from backfill.errors import ExitCode

if TYPE_CHECKING:
    from backfill.operate.doctor import Examined


@click.command()
@click.option("--strict", is_flag=True, help="Warnings count as findings, too.")
@json_option
@pass_session
def doctor(session: Session, *, strict: bool, as_json: bool) -> int:
    """Look whether all that a run needs is there, and set right.

    Nothing is written. Errors keep runs from working: exit code 1. Warnings are risks: with
    --strict exit code 1, too.

    JSON: {"examined": [{"area", "name", "outcome", "message", "remedy"}], "counts": {"ok", "note",
    "warning", "error"}}.
    """
    from backfill.operate.doctor import Outcome, examine
    from backfill.watch.logs import configure

    configure("auto", "error")
    examined = examine(session.folder)
    counts = {str(outcome): sum(one.outcome is outcome for one in examined) for outcome in Outcome}
    if as_json:
        _print_json(examined, counts)
    else:
        _print(examined, counts)
    failed = counts["error"] or (strict and counts["warning"])
    return ExitCode.FAILED if failed else ExitCode.DONE


def _print(examined: list[Examined], counts: dict[str, int]) -> None:
    from backfill.cli import show
    from backfill.cli.plain import plain

    show.table(
        ["AREA", "HOW", "WHAT, → WHAT TO DO"],
        [
            [
                plain(one.area),
                str(one.outcome),
                plain(one.message) + (f"\n→ {plain(one.remedy)}" if one.remedy else ""),
            ]
            for one in examined
        ],
    )
    click.echo()
    errors, warnings = counts["error"], counts["warning"]
    if not errors and not warnings:
        click.echo("all is well")
    else:
        click.echo(
            f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"
        )


def _print_json(examined: list[Examined], counts: dict[str, int]) -> None:
    from backfill.cli import show

    show.as_json(
        {
            "examined": [
                {
                    "area": one.area,
                    "name": one.name,
                    "outcome": str(one.outcome),
                    "message": one.message,
                    "remedy": one.remedy,
                }
                for one in examined
            ],
            "counts": counts,
        }
    )
