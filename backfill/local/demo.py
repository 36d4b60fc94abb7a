"""`make demo`: the whole story on real tables, in about a minute and a half.

    python -m backfill.local.demo           play it, and leave nothing behind
    python -m backfill.local.demo --keep    leave servers and workers running, and say how to look
    python -m backfill.local.demo --stop    end what was left running

It needs no PostgreSQL, no Redis and no root: they come from wheels (the extra `demo`). The acts are
in story.py, the servers and workers in stage.py. Here are the arguments, the signals and the end:
whatever happens, what was started is ended, and a user is told in sentences.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

import psycopg
from rich.console import Console
from rich.markup import escape

from backfill.errors import BackfillError, ExitCode, ProjectError, RefusedError
from backfill.local import flights
from backfill.local.screen import Screen
from backfill.local.stage import KEPT, Stage, is_kept, stop_kept
from backfill.local.story import (
    ALL_ROWS,
    LEAST_ROWS,
    LEAST_SECONDS,
    MOST_SECONDS,
    PACED_SECONDS,
    SPLIT_FLIGHT_TIMES,
    Story,
)
from backfill.project import Project
from backfill.watch import logs

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _EndedBySignal(BaseException):
    """Somebody wants us to end; raised wherever the story is."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the demo; returns the exit code (see errors.py; 130 after Ctrl-C)."""
    parsed = _parser().parse_args(arguments)
    out, err = Console(), Console(stderr=True)
    debug = os.environ.get("BACKFILL_DEBUG", "") not in {"", "0"}
    for number in _SIGNALS:
        signal.signal(number, _end)
    try:
        project = _project()
        if parsed.stop:
            was_running = stop_kept(project)
            out.print(
                "The demo's servers and workers have ended; nothing is left of it."
                if was_running
                else "No demo was left running here."
            )
        else:
            _play(project, out, rows=parsed.rows, seconds=parsed.seconds, keep=parsed.keep)
    except BackfillError as error:
        if debug:
            traceback.print_exc()
        err.print(f"\n[bold red]error:[/] {escape(error.message)}", soft_wrap=True)
        if error.remedy:
            err.print(error.remedy, markup=False, highlight=False, soft_wrap=True)
        return error.exit_code
    except _EndedBySignal as end:
        with suppress(OSError):  # the terminal may be gone
            err.print(
                "\n   Interrupted: everything that the demo had started is ended and removed."
            )
        return ExitCode.INTERRUPTED if end.number == signal.SIGINT else 128 + end.number
    except BrokenPipeError:
        # whoever read our output has gone; Python would complain of it again at its exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:  # noqa: BLE001 - the last boundary: a sentence, no traceback
        if debug:
            traceback.print_exc()
        first = (str(error).splitlines() or [""])[0]
        err.print(
            f"\n[bold red]error:[/] the demo failed with {type(error).__name__}: {escape(first)}",
            soft_wrap=True,
        )
        err.print("BACKFILL_DEBUG=1 make demo shows where.")
        return ExitCode.UNREACHABLE if isinstance(error, psycopg.Error) else ExitCode.FAILED
    return ExitCode.DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m backfill.local.demo",
        description="Play an expand/contract story on the flights of 2013, on servers of our own.",
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave servers and workers running afterwards"
    )
    parser.add_argument("--stop", action="store_true", help="end what --keep left running")
    parser.add_argument(
        "--rows",
        type=_within(LEAST_ROWS, ALL_ROWS),
        default=ALL_ROWS,
        metavar="N",
        help="load the first N flights only",
    )
    parser.add_argument(
        "--seconds",
        type=_within(LEAST_SECONDS, MOST_SECONDS),
        default=PACED_SECONDS,
        metavar="N",
        help=f"how long the first run is to last (default: {PACED_SECONDS})",
    )
    return parser


def _within(least: int, most: int) -> Callable[[str], int]:
    """A whole number in these bounds, from the command line."""

    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text} is no whole number from {least} to {most}")
        return int(text)

    return parse


def _project() -> Path:
    """The folder of this repository, whose jobs the demo runs.

    Raises:
        ProjectError: we are elsewhere, or a job of the story is missing or broken.
    """
    remedy = "Run it in a checkout of the repository: make demo"
    project = Project.find()
    if project.settings.project is None:
        raise ProjectError("the demo needs the jobs of the repository", remedy=remedy)
    for job in flights.CHECKS:
        try:
            project.declaration(job)
        except BackfillError as error:
            raise ProjectError(
                f"the demo needs the job {job}: {error.message}", remedy=remedy
            ) from error
    return project.settings.project


def _play(project: Path, out: Console, *, rows: int, seconds: int, keep: bool) -> None:
    if keep and is_kept(project):
        raise RefusedError("a demo is running here already", remedy="make demo-stop ends it.")
    if keep and not os.access(project, os.W_OK):  # better now than at the end
        raise RefusedError(
            f"{project} cannot be written to, and a demo that stays writes down there where it is",
            remedy="Run it without KEEP=1.",
        )
    flights.data_directory()  # before anything is started
    logs.configure("console", "error")
    # on an interruption in the middle of a statement it would complain on the screen
    logging.getLogger("psycopg").addHandler(logging.NullHandler())
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]  # it would steer our own connections elsewhere
    stage = Stage(project)
    succeeded = False
    try:
        screen = Screen(out)
        Story(stage, screen, rows=rows, seconds=seconds, keep=keep).play()
        if keep:
            stage.keep()
        succeeded = True
    finally:
        if not (succeeded and keep):
            _let_nobody_interrupt()
            stage.close(at_once=not succeeded)
    screen.act(f"Done in {screen.seconds:.0f} s")
    _say_what_next(screen, stage, keep=keep)


def _end(number: int, frame: FrameType | None) -> None:
    del frame
    _let_nobody_interrupt()
    raise _EndedBySignal(number)


def _let_nobody_interrupt() -> None:
    """Ending takes a second or two, and must not be left half-way."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _say_what_next(screen: Screen, stage: Stage, *, keep: bool) -> None:
    if keep:
        psql = _relative(stage.postgres.bin("psql"), stage.project)
        screen.say("Servers and workers are still running. In this folder:")
        screen.command(f". {KEPT}/env")
        screen.command(f"{_program('backfill', stage.project)} status")
        screen.command(f'{psql} "$BACKFILL_DATABASE_URL"')
        screen.command(f"{_program('backfill', stage.project)} flower")
        screen.say("  then open http://127.0.0.1:5555/backfills, and give it something to show:")
        screen.command(
            f"{_program('backfill', stage.project)} enqueue {SPLIT_FLIGHT_TIMES} --rate 5000/s"
        )
        screen.say("To end it all:")
        screen.command("make demo-stop")
        return
    screen.say("Nothing is left running. What to look at next:")
    screen.say("  jobs/flights.py       the three jobs that you saw")
    screen.say("  README.md, docs/      how to write your own; why nothing is lost")
    screen.say("  make demo KEEP=1      the same, left running, for psql and Flower")
    screen.say("  backfill init         in a project of yours")


def _program(name: str, project: Path) -> str:
    """A program of our virtual environment, as one types it in the project's folder."""
    return _relative(Path(sys.executable).parent / name, project)


def _relative(path: Path, project: Path) -> str:
    inside = path.relative_to(project) if path.is_relative_to(project) else path
    return shlex.quote(str(inside))


if __name__ == "__main__":
    sys.exit(main())
