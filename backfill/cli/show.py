"""How values look when they are printed: tables, times, a run's state, JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from backfill.cli.plain import plain
from backfill.streams import is_terminal

if TYPE_CHECKING:
    from rich.console import Console

    from backfill.model import Key
    from backfill.pg.ledger import Pause
    from backfill.pg.samples import Sample
    from backfill.watch.progress import Progress

#: Where output is no terminal nothing is folded or cut: a program may read it.
_WIDE = 10_000


def console() -> Console:
    """Standard output; colours and widths as the terminal has them."""
    from rich.console import Console

    on_terminal = is_terminal(sys.stdout)
    return Console(
        file=sys.stdout,
        width=None if on_terminal else _WIDE,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=not on_terminal,
    )


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their headers; the first column is never cut."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for number, header in enumerate(headers):
        shown.add_column(header, no_wrap=number == 0, overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell) for cell in row))
    screen = console()
    with screen.capture() as capture:
        screen.print(shown)
    for line in capture.get().splitlines():
        click.echo(line.rstrip())  # the last column is padded, which helps nobody


def fields(values: Mapping[str, str]) -> None:
    """Print names and values, one a line; empty values are left out."""
    width = max(map(len, values), default=0)
    for name, value in values.items():
        if value:
            click.echo(f"  {name:<{width}}  {plain(value)}")


def as_json(value: object) -> None:
    """Print JSON in several lines."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2, default=_to_json))


def json_line(value: object) -> str:
    """JSON in one line."""
    return json.dumps(value, ensure_ascii=False, default=_to_json)


def _to_json(value: Any) -> object:
    return utc(value) if isinstance(value, datetime) else str(value)


def utc(at: datetime) -> str:
    """For programs: ISO 8601 in UTC."""
    return at.astimezone(UTC).isoformat()


def local_time(at: datetime) -> str:
    """For people: to the second, in the time zone of this machine."""
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def roughly(seconds: float) -> str:
    """`8.3 s`, `45 s`, `12 min`, `2.1 h`, `3.5 d`: no more digits than an estimate has."""
    number, unit = _rough(seconds, seconds)
    return f"{number} {unit}"


def left(progress: Progress, *, with_interval: bool = True) -> str:
    """`about 12 min left (10 to 15 min)`; empty for a run that does not work."""
    eta = progress.eta
    if eta is None:
        is_under_way = progress.run.run_state.is_working and not progress.is_abandoned
        return "time left not known yet" if is_under_way else ""
    told, unit = _rough(eta.seconds, eta.seconds)
    about = f"about {told} {unit} left"
    if not with_interval:
        return about
    if eta.high_seconds is None:
        return f"{about}, or not in its hours"
    low, high = (_rough(end, eta.seconds)[0] for end in (eta.low_seconds, eta.high_seconds))
    return f"{about} ({low} to {high} {unit})"


def _rough(seconds: float, beside: float) -> tuple[str, str]:
    """A number and its unit, which is that of the number that it stands beside."""
    if beside < 10:
        return f"{max(0.0, seconds):.1f}", "s"
    if beside < 120:
        return f"{seconds:.0f}", "s"
    if beside < 600:
        return f"{seconds / 60:.1f}", "min"
    if beside < 2 * 3600:
        return f"{seconds / 60:.0f}", "min"
    if beside < 48 * 3600:
        return f"{seconds / 3600:.1f}", "h"
    return f"{seconds / 86400:.1f}", "d"


def state(progress: Progress) -> str:
    """`running`, `running (25 % of full speed)`, `paused (quarantine)`."""
    run = progress.run
    more = ", ".join(pause.cause for pause in progress.pauses)
    if run.run_state.is_working and run.speed < 1:
        more = f"{run.speed * 100:.0f} % of full speed"
    return f"{run.state} ({more})" if more else run.state


def share(progress: Progress) -> str:
    """`41 %`; a question mark while no total is known."""
    return "?" if progress.share is None else f"{int(progress.share * 100)} %"


def signals(samples: Sequence[Sample]) -> Iterator[str]:
    """A line for each signal: name, value, what it means, and its thresholds or what is wrong."""
    from backfill.engine.judge import amount, thresholds

    rows = [
        (
            sample.name,
            "?" if sample.value is None else amount(sample.value, sample.unit),
            str(sample.state),
            "; ".join(filter(None, (sample.message, thresholds(sample)))),
        )
        for sample in samples
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for name, value, state, told in rows:
        yield f"{name:<{widths[0]}}  {value:>{widths[1]}}  {state:<{widths[2]}}  {told}"


def pause_told(pause: Pause) -> str:
    """Why, since when, and what ends it (I7)."""
    return plain(
        f"{pause.cause}: {pause.reason} (since {local_time(pause.since)}, {pause.caused_by});"
        f" ends: {pause.ends}"
    )


def key_text(key: Key) -> str:
    """A key of one column as it is; a composite one as JSON; safe for a terminal."""
    return plain(key[0] if len(key) == 1 else json.dumps(list(key), ensure_ascii=False))
