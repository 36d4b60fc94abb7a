"""`backfill run`: a run worked by this process, which can be interrupted and gone on with."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, Self

import click

from backfill.cli.options import (
    Assignment,
    bounds_options,
    collected,
    job_options,
    overrides,
    yes_option,
)
from backfill.cli.session import Session, pass_session
from backfill.cli.tell import say_done
from backfill.errors import BackfillError, ExitCode, OutputError, UnreachableError
from backfill.model import PauseCause, RunState
from backfill.streams import is_terminal, mind_no_output

if TYPE_CHECKING:
    from backfill.cli.live import Reader
    from backfill.entry import Here
    from backfill.job import Bounds
    from backfill.pg.ledger import Run
    from backfill.project import Project
    from backfill.watch.progress import Progress

#: How often a signal or the end of the work is looked for.
POLL_SECONDS = 0.05
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class LeaveNowError(BaseException):
    """A second Ctrl-C: the process ends at once. No Exception, so that nothing keeps it."""


class Interruptions:
    """Counts Ctrl-C and SIGTERM; from the second on it raises LeaveNowError in the main thread.

    SIGHUP counts as the first one only: when a terminal goes, it comes from the shell and from the
    kernel. Whoever had it ignored at the start, as `nohup` does, wants to go on without a terminal.
    """

    def __init__(self) -> None:
        self.count = 0
        #: What the first one was.
        self.reason = ""
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {
            number: signal.signal(number, self._count)
            for number in _SIGNALS
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _count(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGHUP:
            mind_no_output()  # the terminal is gone: what is still to be said must not end us
            self.reason = self.reason or "interrupted (SIGHUP: its terminal is gone)"
            self.count = max(self.count, 1)
            return
        self.reason = self.reason or "interrupted (Ctrl-C or SIGTERM)"
        self.count += 1
        if self.count > 1:
            raise LeaveNowError


@click.command()
@job_options
@bounds_options
@yes_option
@pass_session
def run(
    session: Session,
    *,
    job: str,
    params: tuple[Assignment, ...],
    settings: tuple[Assignment, ...],
    rate: str | None,
    window: str | None,
    start_at: str | None,
    until: str | None,
    concurrency: str | None,
    batch_rows: str | None,
    gentle: bool,
    database: str | None,
    from_key: str | None,
    to_key: str | None,
    limit: int | None,
    yes: bool,
) -> int:
    """Work on a job in this process, without Redis.

    A live run of the same job with the same parameters and bounds, left by an earlier call, is
    continued.
    """
    given = overrides(
        settings,
        rate=rate,
        window=window,
        start_at=start_at,
        until=until,
        concurrency=concurrency,
        batch_rows=batch_rows,
        database=database,
    )
    from backfill.cli.live import Reader, end_told, exit_code, gallery_of
    from backfill.job import Bounds
    from backfill.watch.words import untold

    texts = collected(params, what="parameter")
    bounds = Bounds(from_key=from_key, to_key=to_key, limit=limit)
    here = _start(session, job, texts, given, bounds, gentle=gentle, yes=yes)
    again = _again(job, texts, here.run)
    # pauses are told in logs, messages and Redis: there keys, which are values of rows, may not be
    told = _again(job, texts, replace(here.run, **untold(here.run)))
    with (
        closing(here.desk.conn),
        Reader(gallery_of(session.project, here.desk, live=False), here.run.id) as reader,
        Interruptions() as interruptions,
    ):
        try:
            with here.notices:
                try:
                    _greet(here, reader, [*given, *(["gentle"] if gentle else [])])
                except OutputError as error:
                    _pause_for(here, error, again=told)
                    raise
                progress = _work(here, reader, interruptions, again=told)
                say_done(end_told(progress))
        except LeaveNowError:
            _leave(here, again)
    if interruptions.count and progress.run.run_state is RunState.PAUSED:
        return ExitCode.INTERRUPTED
    return exit_code(progress)


def _again(job: str, texts: Mapping[str, str], run: Run) -> str:
    """The command that continues the run here."""
    from backfill.watch.words import bounds_flags

    params = [f"-p {shlex.quote(f'{name}={text}')}" for name, text in texts.items()]
    return " ".join(["backfill run", job, *params, *map(shlex.quote, bounds_flags(run))])


def _start(
    session: Session,
    job: str,
    texts: Mapping[str, str],
    given: Mapping[str, str],
    bounds: Bounds,
    *,
    gentle: bool,
    yes: bool,
) -> Here:
    from backfill.engine.enqueue import person
    from backfill.entry import start_here

    declaration = session.project.declaration(job)
    own = declaration.options.gentle() if gentle else declaration.options
    options = own.replace_from_text(given)
    values = declaration.parse_params(texts)
    session.confirm_write(declaration.home(options), yes=yes)
    _configure_log(session.project)
    return start_here(
        session.project, declaration, params=values, options=options, bounds=bounds, by=person()
    )


def _configure_log(project: Project) -> None:
    """A line per batch would push the bar off a terminal; elsewhere the project's settings hold."""
    from backfill.watch.logs import configure

    level = "warning" if is_terminal(sys.stderr) else project.settings.log_level
    configure(project.settings.log_format, level)


def _greet(here: Here, reader: Reader, given: Sequence[str]) -> None:
    for warning in here.warnings:
        click.echo(f"warning: {warning}", err=True)
    if not here.continued:
        say_done(f"{here.run.id} begins")
        return
    view = reader.read()
    share = None if view is None else view.progress.share
    done = "" if share is None else f", {int(share * 100)} % done"
    say_done(f"continuing {here.run.id}{done}")
    if given:
        click.echo(
            f"warning: it keeps the options that it began with; {', '.join(sorted(given))} as given"
            " now is left aside",
            err=True,
        )


def _work(here: Here, reader: Reader, interruptions: Interruptions, *, again: str) -> Progress:
    """Let the crew work to the end, showing it; a first Ctrl-C ends it after the batch in hand."""
    from backfill.cli.display import Display

    crew, is_told = here.crew, False
    with Display() as display:
        try:
            crew.start()
            while not crew.join(0):
                if interruptions.count and not is_told:
                    is_told = True
                    crew.stop()
                    display.note("finishing the batch in hand … (once more leaves at once)")
                if display.is_due:
                    view = reader.read(with_marks=display.is_drawn)
                    display.show([] if view is None else [view])
                time.sleep(POLL_SECONDS)
        except UnreachableError:
            raise
        except Exception as error:
            crew.stop()
            _pause_for(here, error, again=again)
            raise
        except BaseException:
            crew.stop()
            raise
    if interruptions.count:
        _pause(here, reader, reason=interruptions.reason, again=again)
    return reader.settled().progress


def _pause(here: Here, reader: Reader, *, reason: str, again: str) -> None:
    """After a signal: the run pauses, unless it has ended, or something else pauses it."""
    from backfill.engine import lifecycle
    from backfill.engine.enqueue import person
    from backfill.engine.here import WAITED_FOR

    progress = reader.settled().progress
    causes = {pause.cause for pause in progress.pauses}
    if not progress.run.run_state.is_live or causes - WAITED_FOR:
        return
    with closing(here.desk.connect()) as conn:
        lifecycle.pause(
            conn,
            here.desk.ledger,
            here.run.id,
            PauseCause.USER,
            reason=reason,
            ends=f"`{again}` goes on here, `backfill resume {here.run.id}` on workers",
            by=person(),
        )


def _pause_for(here: Here, error: Exception, *, again: str) -> None:
    """What ended the crew pauses the run, so that `status` says it after we are gone (I7)."""
    import psycopg

    from backfill.engine import lifecycle
    from backfill.engine.enqueue import person
    from backfill.pg.failure import classify

    told = error.message if isinstance(error, BackfillError) else type(error).__name__
    if isinstance(error, psycopg.Error):  # its text quotes rows; that of others may, too
        told = classify(error, writing=False).told
    with suppress(psycopg.Error, BackfillError), closing(here.desk.connect()) as conn:
        lifecycle.pause(
            conn,
            here.desk.ledger,
            here.run.id,
            PauseCause.ERROR,
            reason=f"the process that worked on it stopped: {told}",
            ends=f"mend it, then `{again}` or `backfill resume {here.run.id}`",
            by=person(),
        )


def _leave(here: Here, again: str) -> NoReturn:
    """End without waiting for the threads: what they hold is free when its lease runs out."""
    click.echo(
        f"left at once; {here.run.id} is kept as far as it was committed. Go on with: {again}",
        err=True,
    )
    mind_no_output()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(ExitCode.INTERRUPTED))
