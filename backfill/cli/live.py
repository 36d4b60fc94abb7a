"""Following a run: reading its progress again and again, and showing it while it changes."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from backfill.cli.show import json_line, share, signals, state
from backfill.errors import ExitCode, UnreachableError, WaitTimeoutError
from backfill.model import PauseCause, RunState, SignalState
from backfill.watch.words import counts_sum, duration

if TYPE_CHECKING:
    from rich.console import Group
    from rich.live import Live

    from backfill.pg.connect import Connection
    from backfill.project import Desk, Project
    from backfill.watch.progress import Progress

#: How often a terminal is drawn anew, and a line is printed where there is none.
DRAW_SECONDS = 0.25
LINE_SECONDS = 1.0
#: Followers go on trying for so long while the database is away, as a crew does.
PATIENCE_SECONDS = 120.0
#: The rate shown is that of the last seconds.
RATE_SECONDS = 10.0
#: Signals that are drawn so that they are seen.
_COMPLAINS = {SignalState.SLOW, SignalState.STOP, SignalState.UNREADABLE}


class Reader:
    """Reads one run's progress; outlives a connection that is lost.

    Args:
        live: read the checkpoint, too: for a run that workers work on.
    """

    def __init__(self, project: Project, desk: Desk, run: str, *, live: bool) -> None:
        self._project = project
        self._desk = desk
        self._run = run
        self._checkpoint = project.checkpoint(desk.ledger) if live else None
        self._away_since: float | None = None
        self._samples: deque[tuple[float, int]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._checkpoint is not None:
            self._checkpoint.close()
        self._desk.conn.close()

    @property
    def conn(self) -> Connection:
        """A connection that is open, as far as can be known.

        Raises:
            UnreachableError: the database does not answer.
        """
        if self._desk.conn.closed:
            self._desk = replace(self._desk, conn=self._desk.connect())
        return self._desk.conn

    def read(self) -> Progress | None:
        """The progress now; None while the database is away.

        Raises:
            UnreachableError: it has been away for too long.
        """
        import psycopg

        try:
            _ = self.conn
            found = self._project.progress(self._desk, self._run, checkpoint=self._checkpoint)
        except (psycopg.OperationalError, UnreachableError) as error:
            now = time.monotonic()
            self._away_since = self._away_since or now
            self._desk.conn.close()
            if now - self._away_since > PATIENCE_SECONDS:
                raise UnreachableError(
                    f"the database has been away for {PATIENCE_SECONDS:.0f} s",
                    remedy="The run is in it, as far as it came: look again when it is back.",
                ) from error
            return None
        self._away_since = None
        return self._with_rate(found) if found.source == "ledger" else found

    def _with_rate(self, found: Progress) -> Progress:
        """The ledger knows only the average since the beginning; we have seen the last seconds."""
        now = time.monotonic()
        self._samples.append((now, found.counts.settled))
        while now - self._samples[0][0] > RATE_SECONDS:
            self._samples.popleft()
        since, settled = self._samples[0]
        if now - since < 1.0 or not found.run.run_state.is_working:
            return found
        return replace(
            found, rows_per_second=max(0.0, (found.counts.settled - settled) / (now - since))
        )


class Display:
    """Shows a run's progress while it changes: a bar on a terminal, else at most a line a second.

    Args:
        as_json: lines of JSON instead, on a terminal, too.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self._as_json = as_json
        self._live: Live | None = None
        self._shown_at = float("-inf")
        self._last = ""
        self._note = ""

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.live import Live

        console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
        if not self._as_json and console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(console=console, auto_refresh=False, transient=True)
            self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)

    @property
    def is_due(self) -> bool:
        """True when it is time to show something again."""
        pause = LINE_SECONDS if self._live is None else DRAW_SECONDS
        return time.monotonic() - self._shown_at >= pause

    def note(self, text: str) -> None:
        """Show a sentence from now on."""
        self._note = text
        if self._live is None:
            click.echo(text, err=True)

    def show(self, progress: Progress | None) -> None:
        """Show the progress; None: the database is away."""
        self._shown_at = time.monotonic()
        if self._live is not None:
            self._live.update(_drawn(progress, self._note), refresh=True)
            return
        if self._as_json:
            line = json_line(None if progress is None else progress.to_json())
        else:
            line = _line(progress)
        # a run that stands still needs no line each second
        if line != self._last and (progress is not None or not self._as_json):
            self._last = line
            click.echo(line)


def _away() -> str:
    return "the database does not answer; trying again"


def _line(progress: Progress | None) -> str:
    if progress is None:
        return _away()
    parts = [f"{progress.run.id}: {progress.line()}"]
    if progress.run.run_state is not RunState.RUNNING:
        parts.append(state(progress))
    if progress.eta_seconds is not None:
        parts.append(f"about {duration(progress.eta_seconds)} left")
    if _is_held_up(progress):
        parts.append(progress.limited_by)
    return ", ".join(parts)


def _is_held_up(progress: Progress) -> bool:
    """True when less is done now than could be, and a person should know why."""
    is_unattended = progress.run.executor == "celery" and not progress.workers
    return progress.run.run_state.is_live and (
        bool(progress.pauses)
        or is_unattended
        or progress.run.speed < 1
        or (progress.run.run_state is RunState.QUEUED and bool(progress.run.barrier))
    )


def _drawn(progress: Progress | None, note: str) -> Group:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    lines: list[Text] = []
    grid = Table.grid(padding=(0, 1))
    if progress is None:
        lines.append(Text(_away(), style="yellow"))
    else:
        counts, total = progress.counts, progress.total_rows
        grid.add_row(
            Text(progress.label, style="bold"),
            ProgressBar(total=1.0, completed=progress.share or 0.0, width=30),
            Text(share(progress)),
            Text(f"{counts.settled:,}{'' if total is None else f'/{total:,}'}"),
            Text(
                ""
                if progress.rows_per_second is None
                else f"{progress.rows_per_second:,.0f} rows/s"
            ),
            Text(
                ""
                if progress.eta_seconds is None
                else f"about {duration(progress.eta_seconds)} left"
            ),
        )
        lines.append(Text(f"{progress.run.id}  {state(progress)}", style="dim"))
        if _is_held_up(progress):
            lines.append(Text(progress.limited_by, style="yellow"))
        if counts.quarantined or counts.deferred:
            lines.append(Text(counts_sum(counts), style="dim"))
        for sample, line in zip(progress.signals, signals(progress.signals), strict=True):
            lines.append(Text(line, style="yellow" if sample.state in _COMPLAINS else "dim"))
    if note:
        lines.append(Text(note, style="yellow"))
    return Group(grid, *lines)


def exit_code(progress: Progress) -> ExitCode:
    """What a command that waited for the run returns."""
    if progress.run.run_state is RunState.SUCCEEDED:
        return ExitCode.DONE
    if progress.run.run_state is not RunState.PAUSED:
        return ExitCode.FAILED
    causes = {pause.cause for pause in progress.pauses}
    return ExitCode.QUARANTINE if PauseCause.QUARANTINE in causes else ExitCode.REFUSED


def tell_end(progress: Progress) -> None:
    """How it ended, what became of the rows, and what to type now."""
    run = progress.run
    seconds = (
        (run.finished_at - run.started_at).total_seconds()
        if run.finished_at is not None and run.started_at is not None
        else None
    )
    took = "" if seconds is None else f" after {duration(seconds)}"
    click.echo(f"{run.id} {state(progress)}{took}: {counts_sum(progress.counts)}")
    for pause in progress.pauses:
        click.echo(f"{pause.cause}: {pause.reason}\nends: {pause.ends}")
    if run.run_state is RunState.FAILED:
        click.echo(f"{run.failure}\nmend it, then: backfill retry {run.id}")


def follow(
    project: Project,
    desk: Desk,
    run: str,
    *,
    is_over: Callable[[Progress], bool],
    timeout_seconds: float | None = None,
    as_json: bool = False,
) -> ExitCode:
    """Show a run until `is_over`, and how it stands then.

    Raises:
        WaitTimeoutError: it is not over in time.
        UnreachableError: the database is away for too long.
    """
    with (
        Reader(project, desk, run, live=True) as reader,
        Display(as_json=as_json) as display,
    ):
        progress = _shown_until(reader, display, is_over, timeout_seconds)
    if progress is None:
        raise WaitTimeoutError(
            f"run {run} is not at its end after {timeout_seconds:g} s",
            remedy=f"It goes on. `backfill watch {run}` shows it,"
            f" `backfill status {run}` says what limits it.",
        )
    if not as_json:
        tell_end(progress)
    return exit_code(progress)


def _shown_until(
    reader: Reader,
    display: Display,
    is_over: Callable[[Progress], bool],
    timeout_seconds: float | None,
) -> Progress | None:
    """The progress with which it was over; None when the time was over first."""
    started = time.monotonic()
    while timeout_seconds is None or time.monotonic() - started < timeout_seconds:
        progress = reader.read()
        ended = progress is not None and is_over(progress)
        if ended or display.is_due:
            display.show(progress)
        if ended:
            return progress
        time.sleep(DRAW_SECONDS)
    return None
