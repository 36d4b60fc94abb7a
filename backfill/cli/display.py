"""Showing runs while they change: a scene on a terminal, else lines, for people or programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from itertools import chain, repeat
from types import TracebackType
from typing import TYPE_CHECKING, Self

import click

from backfill.cli import show
from backfill.cli.plain import plain
from backfill.cli.scene import Frame, View, is_held_up, scene
from backfill.model import RunState

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.live import Live
    from rich.segment import Segment
    from rich.text import Text

    from backfill.watch.progress import Progress

#: How often a terminal is drawn anew at most, or a line is printed: workers renew their pictures
#: each second, and those of several runs are drawn together.
SHOW_SECONDS = 1.0
AWAY = "the database does not answer; trying again"
NO_REDIS = "Redis does not answer; reading from the ledger instead"


class _Rendered:
    """A line of a scene and how a terminal shows it, which is found once: few of them change."""

    def __init__(self, text: Text) -> None:
        self.text = text
        self._segments: list[Segment] | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> list[Segment]:
        if self._segments is None:
            self._segments = list(console.render(self.text, options))
        return self._segments


class Display:
    """Shows runs: a scene on a terminal, else at most a line a second of each, and on change only.

    Args:
        as_json: lines of JSON instead, on a terminal, too.
        all_signals: on a terminal, also those that do not complain.
        several_databases: say which one is a run's.
    """

    def __init__(
        self,
        *,
        as_json: bool = False,
        all_signals: bool = False,
        several_databases: bool = False,
    ) -> None:
        self._as_json = as_json
        self._all_signals = all_signals
        self._several_databases = several_databases
        self._live: Live | None = None
        self._shown_at = float("-inf")
        self._shown: tuple[object, ...] = ()
        self._drawn: list[_Rendered] = []
        self._frame_before: Frame | None = None
        self._lines: dict[str, str] = {}
        self._notes: list[str] = []
        self._warning = ""

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.live import Live

        console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
        if not self._as_json and console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(
                console=console, auto_refresh=False, transient=True, vertical_overflow="crop"
            )
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
    def is_drawn(self) -> bool:
        """True on a terminal."""
        return self._live is not None

    @property
    def is_due(self) -> bool:
        """True when it is time to show something again."""
        return time.monotonic() - self._shown_at >= SHOW_SECONDS

    def note(self, text: str) -> None:
        """Show a sentence from now on."""
        self._notes.append(text)
        if self._live is None:
            click.echo(text, err=True)

    def show_end(self, view: View, text: str) -> None:
        """Show a run for the last time, and say in lines that stay how it ended."""
        if self._live is None:
            self._print(view)
            if not self._as_json:
                click.echo(text)
            return
        from rich.text import Text

        # the scene as it was goes; what is left of it is drawn below at once
        self._live.update(Text(), refresh=True)
        self._live.console.print(Text(text), soft_wrap=True)
        self._drawn, self._shown = [], ()
        self._shown_at = float("-inf")

    def show(self, views: Sequence[View], *, misses_redis: bool = False) -> None:
        """Show these runs."""
        self._shown_at = time.monotonic()
        if self._live is not None:
            self._draw(self._live, views, misses_redis)
            return
        self._warn(NO_REDIS if misses_redis else "")
        for view in views:
            self._print(view)

    def _draw(self, live: Live, views: Sequence[View], misses_redis: bool) -> None:
        from rich.console import Group
        from rich.control import Control

        notes = [*self._notes]
        if misses_redis:
            notes.append(NO_REDIS)
        if any(view.is_away for view in views):
            notes.append(AWAY)
        frame = self._frame(live.console)
        shown = (*views, *notes, frame)
        if shown == self._shown:
            return  # pictures are looked at more often than they are renewed
        self._shown = shown
        if self._frame_before not in {None, frame}:
            # what was drawn lies elsewhere now: the terminal has moved it
            live.console.control(Control.clear(), Control.home())
            self._drawn = []
        self._frame_before = frame
        drawn = scene(views, notes, frame)
        # what has not changed is not drawn again: nothing can flicker
        before = self._drawn
        if drawn != [line.text for line in before]:
            self._drawn = [
                old if old is not None and old.text == text else _Rendered(text)
                for text, old in zip(drawn, chain(before, repeat(None)), strict=False)
            ]
            live.update(Group(*self._drawn), refresh=True)

    def _frame(self, console: Console) -> Frame:
        # a line that fills the terminal's last column may wrap, and its last line scrolls
        return Frame(
            width=max(20, console.width - 1),
            height=max(2, console.height - 1),
            ascii_only=console.options.ascii_only,
            all_signals=self._all_signals,
            several_databases=self._several_databases,
        )

    def _warn(self, text: str) -> None:
        """Where there is no terminal, on standard error, once."""
        if text != self._warning and not self._as_json:
            click.echo(text or "Redis answers again", err=True)
        self._warning = text

    def _print(self, view: View) -> None:
        run = view.progress.run.id
        if self._as_json:
            if view.is_away:
                return
            text = show.json_line({**view.progress.to_json(), "database": view.picture.database})
        else:
            text = AWAY if view.is_away else line(view.progress)
        # a run that stands still needs no line each second
        if text != self._lines.get(run):
            self._lines[run] = text
            click.echo(text)


def line(progress: Progress) -> str:
    """A run where there is no terminal."""
    parts = [f"{progress.run.id}: {progress.line()}"]
    if progress.run.run_state is not RunState.RUNNING:
        parts.append(show.state(progress))
    if progress.eta is not None:
        parts.append(show.left(progress))
    if is_held_up(progress):
        parts.append(plain(progress.limited_by))
    return ", ".join(parts)
