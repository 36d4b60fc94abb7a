"""The group of all commands; each command's module is imported when it is needed."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from backfill.cli.boundary import guarded
from backfill.cli.examples import epilog
from backfill.cli.session import Session
from backfill.errors import UsageError

#: In the order in which one meets them: name → module and function.
_COMMANDS = {
    "init": "backfill.cli.start:init",
    "new": "backfill.cli.start:new",
    "db": "backfill.cli.db:db",
    "doctor": "backfill.cli.doctor:doctor",
    "list": "backfill.cli.jobs:list_jobs",
    "check": "backfill.cli.check:check",
    "dry-run": "backfill.cli.dry_run:dry_run",
    "run": "backfill.cli.run:run",
    "enqueue": "backfill.cli.enqueue:enqueue",
    "worker": "backfill.cli.worker:worker",
    "status": "backfill.cli.status:status",
    "watch": "backfill.cli.watch:watch",
    "flower": "backfill.cli.flower:flower",
    "events": "backfill.cli.events:events",
    "report": "backfill.cli.report:report",
    "pause": "backfill.cli.control:pause",
    "resume": "backfill.cli.control:resume",
    "cancel": "backfill.cli.control:cancel",
    "retry": "backfill.cli.control:retry",
    "tune": "backfill.cli.tune:tune",
    "stop-all": "backfill.cli.stop:stop_all",
    "start-all": "backfill.cli.stop:start_all",
    "quarantine": "backfill.cli.quarantine:quarantine",
    "schedule": "backfill.cli.schedule:schedule",
    "notify": "backfill.cli.notify:notify",
}

_EPILOG = """\b
Examples:
  backfill init                             make a project here
  backfill new fill_departure               write a job's first version
  backfill db upgrade                       install the ledger in the database
  backfill doctor                           see whether all that a run needs is there
  backfill check fill_departure             see what speaks against a run
  backfill dry-run fill_departure           try it in batches that are rolled back
  backfill run fill_departure               work in this process, no Redis needed
  backfill enqueue fill_departure -p since=2014 --rate 5000/s
  backfill worker --concurrency 4           work on what is enqueued
  backfill watch                            follow the run that is live
  backfill tune --rate 2000/s               change a run while it works
  backfill stop-all                         pause every run, and each new one
  backfill report fill_departure            tell what a run did, for the ticket
  backfill quarantine list fill_departure   rows that could not be processed

RUN is a run's id, a beginning of it that fits one run, or a job's name (its latest run).

Exit codes: 0 done, 1 failed or findings, 2 usage, 3 project or job invalid, 4 database or Redis
unreachable, 5 refused, 6 quarantine, 7 timed out, 130 interrupted and resumable.
"""


class RootGroup(click.Group):
    """Finds commands by name without importing the others, and turns errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        place = _COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, function = place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), function)
        if isinstance(command, click.Group):
            for name, one in command.commands.items():
                one.epilog = epilog(f"{cmd_name} {name}")
        else:
            command.epilog = epilog(cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in _COMMANDS:
            from backfill.job.suggestion import did_you_mean

            raise click.UsageError(
                f"there is no command {args[0]!r}. {did_you_mean(args[0], _COMMANDS)}", ctx
            )
        return super().resolve_command(ctx, args)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        if not standalone_mode:
            return super().main(given, prog_name, complete_var, standalone_mode=False, **extra)
        debug = "--debug" in given or os.environ.get("BACKFILL_DEBUG", "0") not in {"", "0"}
        sys.exit(
            guarded(
                lambda: super(RootGroup, self).main(
                    _legible(given), prog_name, complete_var, standalone_mode=False, **extra
                ),
                debug=debug,
            )
        )


def _legible(words: list[str]) -> list[str]:
    """The words; neither PostgreSQL nor JSON keeps what is no text.

    Raises:
        UsageError: bytes that are no UTF-8, of which Python makes halves of surrogate pairs, or NUL
            from a program that calls this one in its own process.
    """
    for word in words:
        if "\0" in word or any("\ud800" <= character <= "\udfff" for character in word):
            raise UsageError(
                f"{word!r} is no text in UTF-8",
                remedy="Set the locale of the terminal to one of UTF-8. A folder whose name is"
                " written otherwise can be entered with cd.",
            )
    return words


@click.group(
    cls=RootGroup,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--project",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    envvar="BACKFILL_PROJECT",
    help="The project's folder, where it is not this one or one above it.",
)
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
@click.version_option(package_name="backfill", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, folder: Path | None, debug: bool) -> None:
    """Batched backfills for PostgreSQL under live traffic: nothing lost, nothing done twice."""
    del debug  # read where the group is called: it holds for errors of the parser, too
    ctx.obj = Session(folder)
