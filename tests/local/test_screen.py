"""What the demo shows, on a terminal and where there is none."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from backfill.local.screen import Screen, View
from backfill.local.traffic import Traffic
from backfill.model import Counts
from backfill.pg.ledger import Run
from backfill.watch.progress import Progress


def a_run(**changed: Any) -> Run:
    fields: dict[str, Any] = {
        "id": "fill_departs_at-7f3k2",
        "job": "fill_departs_at",
        "job_version": 1,
        "fingerprint": "",
        "declaration": {"target": {"kind": "update", "columns": ["departs_at"]}},
        "params": {},
        "options": {"rate": "500/s"},
        "executor": "celery",
        "requested_by": "me",
        "source": {"name": "flights"},
        "state": "running",
        "horizon": ["1000"],
        "barrier": [],
        "barrier_until": None,
        "began": True,
        "frontier": ["500"],
        "frontier_done": False,
        "slices": 4,
        "passes": 0,
        "total_rows": 1000,
        "total_is_exact": True,
        "failure": None,
        "created_at": datetime(2013, 1, 1, tzinfo=UTC),
        "started_at": datetime(2013, 1, 1, tzinfo=UTC),
        "finished_at": None,
    }
    return Run(**{**fields, **changed})


def a_view(**changed: Any) -> View:
    return View(
        progress=Progress(
            run=a_run(**changed),
            counts=Counts(paged=410, written=407, deferred=3),
            by_phase={"walk": 2, "sweep": 1, "verify": 1, "done": 0},
            held=2,
            rows_per_second=500.0,
            pauses=[],
            workers=2,
            source="ledger",
        ),
        workers=[("w1", "2 slices"), ("w2", "killed")],
        traffic=Traffic(transactions=12, longest_seconds=0.043, held=300),
    )


def a_screen(*, terminal: bool, width: int = 120) -> tuple[Screen, io.StringIO, list[float]]:
    """A screen, what it wrote, and its clock: a list of one number."""
    written, now = io.StringIO(), [0.0]
    console = Console(
        file=written, force_terminal=terminal, width=width, height=40, color_system=None
    )
    return Screen(console, monotonic=lambda: now[0]), written, now


def test_without_a_terminal_a_run_is_mentioned_at_most_once_a_second() -> None:
    screen, written, now = a_screen(terminal=False)
    with screen.watching():
        for tenth in range(25):
            now[0] = tenth / 10
            screen.show(a_view())
    lines = written.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["0.0", "1.0", "2.0"]
    assert "flights.departs_at 40 % 407/1,000, 500 rows/s, 1 s left" in lines[0]
    assert "2 worked on, 2 walked, 3 rows deferred" in lines[0]


def test_without_a_terminal_a_line_is_never_broken_or_cut() -> None:
    screen, written, _ = a_screen(terminal=False, width=20)
    screen.say("a sentence that is longer than the twenty cells of the width")
    assert written.getvalue() == (
        "   a sentence that is longer than the twenty cells of the width\n"
    )


def test_a_command_is_never_broken_so_that_it_can_be_copied() -> None:
    screen, written, _ = a_screen(terminal=True, width=20)
    screen.command("backfill enqueue fill_departs_at --rate 500/s")
    assert "enqueue fill_departs_at --rate 500/s\n" in written.getvalue()


@pytest.mark.parametrize("width", [40, 80, 120])
def test_on_a_terminal_it_shows_the_run_its_limit_its_workers_and_the_application(
    width: int,
) -> None:
    screen, written, _ = a_screen(terminal=True, width=width)
    with screen.watching():
        screen.show(a_view())
    shown = written.getvalue()
    for words in ("40 %", "500/s", "w2 killed", "43 ms"):
        assert words in shown
    lines = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]|\r", "\n", shown).splitlines()
    assert max(map(len, lines)) <= width


def test_a_sweeping_run_says_how_many_slices_are_to_sweep() -> None:
    screen, written, _ = a_screen(terminal=False)
    screen.show(a_view(state="sweeping"))
    assert "1 to sweep, 3 rows deferred" in written.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_what_looks_like_markup_is_shown_as_it_is(terminal: bool) -> None:
    screen, written, _ = a_screen(terminal=terminal)
    screen.act("a [bold] act")
    screen.say("[red]text[/]")
    screen.sql("SELECT '{}'::text[]")
    screen.command("backfill worker [options]")
    shown = written.getvalue()
    for words in ("a [bold] act", "[red]text[/]", "SELECT '{}'::text[];", "worker [options]"):
        assert words in shown


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    screen, written, _ = a_screen(terminal=True)
    with screen.watching():
        screen.show(a_view())
    assert "\x1b" not in written.getvalue()
    assert "flights.departs_at 40 %" in written.getvalue()
