"""The scene: what `watch` draws of the runs that it watches, at the terminal's size.

Each run is a list of lines in their order, each with a rank. Where they are too many for the
terminal's height, those of the highest ranks are left out, of all runs alike; where even two lines
a run are too many, each has one. A line is never wider than the terminal.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import TYPE_CHECKING

from rich.text import Text

from backfill.cli import show
from backfill.cli.charts import Marks, bar, slice_map, spark
from backfill.cli.plain import plain
from backfill.model import RunState, SignalState
from backfill.watch.words import duration

if TYPE_CHECKING:
    from backfill.pg.ledger import EventRecord
    from backfill.watch.picture import Picture
    from backfill.watch.progress import Progress

#: Signals that are drawn so that they are seen.
COMPLAINS = frozenset({SignalState.SLOW, SignalState.STOP, SignalState.UNREADABLE})
#: What is in the picture at most, however high the terminal is.
_MOST_EVENTS, _MOST_WORKING, _MOST_SPARK, _MOST_BAR = 8, 12, 96, 120
#: So wide is the column of the names.
_NAMES = 13
#: A bar that is narrower than this says nothing.
_LEAST_BAR = 8
#: A slice whose last batch is so old is told to be still.
_STILL_SECONDS = 2.0
#: Of these reasons to wait no more than so many lines are shown.
_MOST_LIMIT = 3


class Rank(IntEnum):
    """What is left out last comes first."""

    HEAD = 0
    TROUBLE = 1
    ROWS = 2
    RATE = 3
    LIMIT = 4
    LAST_EVENT = 5
    SLICES = 6
    WORKING = 7
    EVENTS = 8
    SIGNALS = 9
    SPACE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A run at an instant, as it is to be shown.

    Attributes:
        marks: how far it was before.
        is_away: its database does not answer, and this was before.
    """

    picture: Picture
    marks: Marks = ()
    is_away: bool = False

    @property
    def progress(self) -> Progress:
        """The run's numbers."""
        return self.picture.progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What the scene has to fit.

    Attributes:
        all_signals: also those that do not complain, before all that could be left out.
        several_databases: say of each run which one is its.
    """

    width: int
    height: int
    ascii_only: bool = False
    all_signals: bool = False
    several_databases: bool = False


_Line = tuple[Rank, Text]


def scene(views: Sequence[View], notes: Sequence[str], frame: Frame) -> list[Text]:
    """The lines that fit, in their order."""
    told = [_cut(Text(note, style="yellow"), frame) for note in notes]
    room = max(1, frame.height - len(told))
    if 2 * len(views) > room:
        heads = [_cut(_one_line(view, frame), frame) for view in views]
        if len(heads) > room:
            more = len(heads) - room + 1
            heads = [*heads[: room - 1], Text(f"and {more} more runs", style="dim")]
        return [*heads, *told]
    lines = [
        (rank, _cut(line, frame))
        for number, view in enumerate(views)
        for rank, line in (*_space(number), *_lines(view, frame))
    ]

    def importance(index: int) -> tuple[Rank, int]:
        rank = lines[index][0]
        return rank, -index if rank is Rank.EVENTS else index  # the newest events stay

    kept = set(sorted(range(len(lines)), key=importance)[:room])
    return [*(line for index, (_, line) in enumerate(lines) if index in kept), *told]


def is_held_up(progress: Progress) -> bool:
    """True when less is done now than could be, and a person should know why."""
    is_unattended = progress.run.executor == "celery" and not progress.workers
    return progress.run.run_state.is_live and (
        bool(progress.pauses)
        or is_unattended
        or progress.run.speed < 1
        or (progress.run.run_state is RunState.QUEUED and bool(progress.run.barrier))
    )


def _space(number: int) -> Iterator[_Line]:
    if number:
        yield Rank.SPACE, Text("")


def _cut(line: Text, frame: Frame) -> Text:
    line.no_wrap = True
    line.truncate(frame.width, overflow="ellipsis")
    return line


def _lines(view: View, frame: Frame) -> Iterator[_Line]:
    progress = view.progress
    yield Rank.HEAD, _title(view, frame)
    yield Rank.HEAD, _bar(view, frame, width=frame.width)
    yield Rank.ROWS, _named("rows", _rows(view))
    yield from _rate(view, frame)
    yield from _limit(progress, frame)
    yield from _set_aside(view)
    yield from _slices(view, frame)
    yield from _signals(progress, frame)
    yield from _events(view.picture.events)


def _named(name: str, value: Text | str, *, style: str = "") -> Text:
    return Text.assemble((f"{name:<{_NAMES}}", "dim"), value or "", style=style)


def _title(view: View, frame: Frame) -> Text:
    progress = view.progress
    where = f"  {view.picture.database}" if frame.several_databases else ""
    return Text.assemble(
        (progress.run.id, "bold"),
        "  ",
        (show.state(progress), _style(view)),
        "  ",
        progress.label,
        (where, "dim"),
    )


def _style(view: View) -> str:
    """The colour of a run's state."""
    progress = view.progress
    if view.is_away or is_held_up(progress):
        return "yellow"
    if progress.run.run_state in {RunState.FAILED, RunState.CANCELLED}:
        return "red"
    return "green"


def _bar(view: View, frame: Frame, *, width: int) -> Text:
    """The bar, the share, and what is left, of which the interval goes first."""
    progress = view.progress
    for left in (show.left(progress), show.left(progress, with_interval=False), ""):
        told = f" {show.share(progress):>5}{f'  {left}' if left else ''}"
        cells = min(_MOST_BAR, width - len(told))
        if cells >= _LEAST_BAR:
            break
    done, rest = bar(progress.share or 0.0, max(1, cells), ascii_only=frame.ascii_only)
    return Text.assemble((done, _style(view)), (rest, "dim"), told)


def _one_line(view: View, frame: Frame) -> Text:
    """A run where there is no room for more."""
    title = Text.assemble((f"{view.progress.run.id:<24}", "bold"), " ")
    if is_held_up(view.progress):
        title.append(f"{show.state(view.progress)} ", style=_style(view))
    title.append_text(_bar(view, frame, width=max(_LEAST_BAR, frame.width - len(title.plain))))
    return title


def _rows(view: View) -> Text:
    progress = view.progress
    total = progress.total_rows
    of = "" if total is None else f" of {total:,}"
    estimated = "" if total is None or progress.run.total_is_exact else " (estimated)"
    told = Text(f"{progress.counts.settled:,}{of}{estimated}")
    if progress.rows_per_second is not None and progress.run.run_state.is_working:
        told.append(f"   {progress.rows_per_second:,.0f} rows/s")
    return told


def _rate(view: View, frame: Frame) -> Iterator[_Line]:
    run = view.progress.run
    if run.started_at is None:
        return
    width = min(_MOST_SPARK, frame.width - _NAMES - 32)
    found = spark(
        view.marks,
        begin=run.started_at,
        end=view.progress.at,
        width=width,
        ascii_only=frame.ascii_only,
    )
    if found is not None and found.most >= 1:
        line = Text.assemble(
            (found.line, "cyan"),
            (f"  {found.most:,.0f} at most in {show.roughly(found.seconds)}", "dim"),
        )
        yield Rank.RATE, _named("rows/s", line)


def _limit(progress: Progress, frame: Frame) -> Iterator[_Line]:
    held_up = is_held_up(progress)
    told = textwrap.wrap(plain(progress.limited_by), max(20, frame.width - _NAMES))
    for number, line in enumerate(told[:_MOST_LIMIT]):
        yield (
            Rank.TROUBLE if held_up else Rank.LIMIT,
            _named("" if number else "limited by", Text(line, style="yellow" if held_up else "")),
        )


def _set_aside(view: View) -> Iterator[_Line]:
    counts, picture = view.progress.counts, view.picture
    if counts.deferred:
        yield Rank.ROWS, _named("deferred", f"{counts.deferred:,} rows, to be taken again")
    if counts.quarantined:
        why = ", ".join(
            f"{one.sqlstate or 'refused'} {one.open + one.accepted:,}" for one in picture.set_aside
        )
        line = Text(f"{counts.quarantined:,} rows")
        line.append(f", {picture.open_quarantine:,} wait for somebody", style="yellow")
        line.append(f"   {why}", style="dim")
        yield Rank.ROWS, _named("quarantine", line)


def _slices(view: View, frame: Frame) -> Iterator[_Line]:
    progress, picture = view.progress, view.picture
    phases = progress.by_phase
    if picture.cells:
        drawn = slice_map(
            picture.cells, min(60, (frame.width - _NAMES) // 2), ascii_only=frame.ascii_only
        )
        told = Text.assemble(*drawn)
        counted = [f"{phases.get('walk', 0)} to walk", f"{phases.get('verify', 0)} walked"]
        if phases.get("sweep"):
            counted.insert(1, f"{phases['sweep']} to sweep")
        if phases.get("done"):
            counted.append(f"{phases['done']} checked")
        more = "" if progress.run.frontier_done else "; more to come"
        told.append(f"  {', '.join(counted)}{more}", style="dim")
        yield Rank.SLICES, _named("slices", told)
    for number, one in enumerate(picture.working[:_MOST_WORKING]):
        size = "" if one.batch_rows is None else f"{one.batch_rows:,} rows"
        took = "" if one.batch_seconds is None else f"{one.batch_seconds * 1000:,.0f} ms a batch"
        still = (
            f"  still for {duration(one.idle_seconds)}" if one.idle_seconds > _STILL_SECONDS else ""
        )
        line = Text.assemble(
            f"slot {'?' if one.slot is None else one.slot}  slice {one.slice:<4} ",
            f"{size:>11} {took:>16}",
            (still, "yellow"),
            (f"  {one.holder}", "dim"),
        )
        yield Rank.WORKING, _named("" if number else "at work", line)
    if len(picture.working) > _MOST_WORKING:
        more = f"and {len(picture.working) - _MOST_WORKING} more"
        yield Rank.WORKING, _named("", Text(more, style="dim"))


def _signals(progress: Progress, frame: Frame) -> Iterator[_Line]:
    told = list(zip(progress.signals, show.signals(progress.signals), strict=True))
    # those that complain first, so that the name stands before whichever are shown
    told.sort(key=lambda pair: pair[0].state not in COMPLAINS)
    for number, (sample, line) in enumerate(told):
        complains = sample.state in COMPLAINS
        calm = Rank.LIMIT if frame.all_signals else Rank.SIGNALS
        style = "yellow" if complains else "dim"
        rank = Rank.TROUBLE if complains else calm
        yield rank, _named("" if number else "signals", Text(line, style=style))


def _events(events: Sequence[EventRecord]) -> Iterator[_Line]:
    from backfill.watch.told import told

    newest = events[-_MOST_EVENTS:]
    for number, event in enumerate(newest):
        rank = Rank.LAST_EVENT if number == len(newest) - 1 else Rank.EVENTS
        yield rank, _named(_clock(event.at), Text(plain(told(event))))


def _clock(at: datetime) -> str:
    """The time of day here; of another day, the day."""
    here = at.astimezone()
    is_today = here.date() == datetime.now().astimezone().date()
    return here.strftime("%H:%M:%S" if is_today else "%b %d %H:%M")
