"""What the demo shows: its acts as lines, and on a terminal a live view of the run at work.

Lines stay; the live view stands below them and goes when the run has ended. Where the output is no
terminal there are lines only, and a run says how far it is at most once a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from backfill.local.traffic import Traffic
from backfill.model import RunState
from backfill.watch.progress import Progress

#: Without a terminal a run is mentioned at most so often.
LINE_SECONDS = 1.0
_REFRESH_PER_SECOND = 8
#: The bar's width where there is room beside the label and the numbers.
_BAR_CELLS = 34
_NUMBERS_CELLS = 76

#: What becomes of a worker, with its colour on the screen.
_COLOURS = {"killed": "bold red", "starting": "yellow"}


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One moment of a run.

    Attributes:
        workers: name and what it does now: `2 slices`, `killed`, `starting`.
    """

    progress: Progress
    workers: Sequence[tuple[str, str]]
    traffic: Traffic


class Screen:
    """See the module. Texts are shown as they are: no markup in them is interpreted.

    Args:
        monotonic: seconds that never go back.
    """

    def __init__(self, console: Console, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._monotonic = monotonic
        self._began = monotonic()
        self._acts = 0
        self._live: Live | None = None
        self._told_at = -LINE_SECONDS
        self.is_live = console.is_terminal and not console.is_dumb_terminal

    # -- lines ------------------------------------------------------------------------------

    def act(self, title: str) -> None:
        """Begin the next act of the story."""
        self._acts += 1
        self._console.print()
        self._print(f"{self._acts}  ", title, style="bold cyan")

    def say(self, text: str, style: str = "") -> None:
        """One thing that happened, or was found."""
        indent = len(text) - len(text.lstrip())
        self._print(" " * (indent + 3), text.lstrip(), style=style)

    def event(self, text: str, style: str = "") -> None:
        """Something that happened while a run works, with the seconds since the demo's start."""
        self._print(f"   {self.seconds:5.1f} s  ", text, style=style)

    def sql(self, statement: str) -> None:
        """A statement, as it is executed."""
        for line in f"{statement};".splitlines():
            self.say(line, style="green")

    def command(self, words: str) -> None:
        """A command, as a user types it; it stays one line, to be copied."""
        self._console.print(Text(f"   $ {words}", style="bold"), soft_wrap=True)

    @property
    def seconds(self) -> float:
        """Since the screen was made."""
        return self._monotonic() - self._began

    def _print(self, before: str, text: str, *, style: str) -> None:
        """A line; on a terminal that is too narrow for it, its rest is indented as its text is."""
        if self.is_live:
            line = Table.grid()
            line.add_column(no_wrap=True)
            line.add_row(Text(before, style="dim"), Text(text, style=style))
            self._console.print(line)
        else:
            # a pipe has no width: whoever reads it may want to search for whole lines
            self._console.print(
                Text(f"{before}{text}"), soft_wrap=True, highlight=False, markup=False
            )

    # -- a run at work ----------------------------------------------------------------------

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The live view is open inside; `show` fills it."""
        if not self.is_live:
            yield
            return
        with Live(
            console=self._console, refresh_per_second=_REFRESH_PER_SECOND, transient=True
        ) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def show(self, view: View) -> None:
        """Show this moment; without a terminal one line, if the last one is a second old."""
        if self._live is not None:
            self._live.update(picture(view, self._console.width))
        elif self._monotonic() - self._told_at >= LINE_SECONDS:
            self._told_at = self._monotonic()
            progress = view.progress
            left = _left(progress)
            self.event(f"{progress.line()}{f', {left}' if left else ''}; {_slices(progress)}")


def picture(view: View, width: int) -> RenderableType:
    progress = view.progress
    bar = Table.grid(padding=(0, 2))
    share = progress.share or 0.0
    of = "" if progress.total_rows is None else f" / {progress.total_rows:,}"
    rate = "" if progress.rows_per_second is None else f"{progress.rows_per_second:,.0f} rows/s"
    bar.add_row(
        Text(f"   {progress.label}", style="bold"),
        ProgressBar(
            total=1.0, completed=share, width=max(4, min(_BAR_CELLS, width - _NUMBERS_CELLS))
        ),
        Text(f"{int(share * 100)} %", style="bold"),
        Text(f"{progress.counts.settled:,}{of}"),
        Text(rate, style="cyan"),
        Text(_left(progress)),
    )
    state = f"{progress.run.state}"
    limit = progress.limited_by
    facts = Table.grid(padding=(0, 2))
    facts.add_row(Text("   run", style="dim"), Text(f"{progress.run.id} is {state}"))
    facts.add_row(Text("   limited by", style="dim"), Text(limit or "nothing"))
    facts.add_row(Text("   slices", style="dim"), Text(_slices(progress)))
    facts.add_row(Text("   workers", style="dim"), _workers(view.workers))
    facts.add_row(Text("   application", style="dim"), Text(application(view.traffic)))
    return Group(Rule(style="dim"), bar, facts)


def _workers(workers: Sequence[tuple[str, str]]) -> Text:
    line = Text()
    for name, what in workers:
        line.append(f"{' · ' if line else ''}{name} ")
        line.append(what, style=_COLOURS.get(what, "green"))
    return line


def _slices(progress: Progress) -> str:
    phases = progress.by_phase
    placed = sum(phases.values())
    if progress.run.run_state is RunState.SWEEPING:
        state = f"{phases.get('sweep', 0)} to sweep"
    elif progress.run.run_state is RunState.VERIFYING:
        state = f"{phases.get('verify', 0)} to check"
    else:
        state = f"{placed - phases.get('walk', 0)} walked"
    return f"{progress.held} worked on, {state}, {progress.counts.deferred:,} rows deferred"


def _left(progress: Progress) -> str:
    seconds = progress.eta_seconds
    if seconds is None:
        return ""
    return f"{seconds:.0f} s left" if seconds < 90 else f"{seconds / 60:.0f} min left"


def application(traffic: Traffic) -> str:
    """What the application has done, in words."""
    held = f"; its clerk holds {traffic.held} rows" if traffic.held else ""
    return (
        f"{traffic.transactions:,} short transactions, the longest took"
        f" {traffic.longest_seconds * 1000:.0f} ms, {traffic.errors} errors{held}"
    )
