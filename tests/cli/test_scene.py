"""What `watch` draws: it fits every terminal, and what matters most is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.cli import show
from backfill.cli.charts import bar, slice_map, spark
from backfill.cli.scene import Frame, View, scene
from backfill.engine.judge import judge_signal
from backfill.events import Event
from backfill.model import Counts, PauseCause
from backfill.pg.ledger import EventRecord, Pause
from backfill.pg.pictures import Cell, SetAside, Working
from backfill.pg.samples import Sample
from backfill.signals import Reading, SignalSpec
from backfill.watch.picture import Picture
from backfill.watch.progress import Progress
from backfill.watch.told import told
from tests.local.test_screen import a_run

BEGAN = datetime(2026, 6, 1, 12, tzinfo=UTC)
NOW = BEGAN + timedelta(seconds=100)


def event(number: int, name: str, **detail: Any) -> EventRecord:
    return EventRecord(id=number, run="r", at=NOW, name=name, caused_by="ada", detail=detail)


def sample(name: str, value: float) -> Sample:
    spec = SignalSpec(name=name, unit="s", stop=30, resume=10)
    return judge_signal(spec, Reading(name=name, value=value), None)


def cell(first: int, **changed: int) -> Cell:
    fields = dict.fromkeys(
        ("walk", "sweep", "verify", "done", "held", "failing", "quarantined", "deferred"), 0
    )
    return Cell(first=first, slices=1, **{**fields, **changed})


def a_view(number: int = 0, **changed: Any) -> View:
    """A run with something of everything."""
    run = a_run(
        id=f"fill_departs_at-{number:05}",
        total_rows=100_000,
        started_at=BEGAN,
        created_at=BEGAN,
        **changed,
    )
    progress = Progress(
        run=run,
        counts=Counts(paged=41_010, written=40_000, deferred=10, quarantined=1_000),
        by_phase={"walk": 2, "sweep": 1, "verify": 20, "done": 0},
        held=2,
        rows_per_second=400.0,
        pauses=[],
        workers=2,
        source="checkpoint",
        usual_rate=400.0,
        at=NOW,
        signals=[sample("calm", 1.0), sample("lag", 20.0)],
    )
    picture = Picture(
        database="default",
        progress=progress,
        cells=[cell(1, verify=1), cell(2, walk=1, held=1), cell(3, walk=1)],
        working=[
            Working(
                slice=2,
                slot=slot,
                holder=f"host:{slot}",
                epoch=1,
                phase="walk",
                paged=1,
                batch_rows=1_500,
                batch_seconds=0.048,
                idle_seconds=0.1,
                attempts=0,
            )
            for slot in range(2)
        ],
        set_aside=[SetAside(sqlstate="22P02", open=990, accepted=10)],
        events=[
            event(1, Event.RUN_ENQUEUED),
            event(2, Event.RUN_BEGUN, total_rows=100_000, total_is_exact=True),
            event(3, Event.RUN_TUNED, changes={"rate": ["1000/s", None]}),
        ],
    )
    marks = [(BEGAN + timedelta(seconds=second), 400 * second) for second in range(101)]
    return View(picture=picture, marks=marks)


def drawn(views: Sequence[View], **frame: Any) -> list[str]:
    whole = {"width": 110, "height": 40, **frame}
    return [line.plain for line in scene(views, (), Frame(**whole))]


@given(st.integers(60, 200), st.integers(3, 60), st.integers(1, 30), st.booleans())
def test_it_fits_every_terminal(width: int, height: int, runs: int, all_signals: bool) -> None:
    views = [a_view(number) for number in range(runs)]
    lines = scene(views, ("a note",), Frame(width=width, height=height, all_signals=all_signals))
    assert len(lines) <= height
    assert max(line.cell_len for line in lines) <= width
    assert lines[-1].plain == "a note"
    assert lines[0].plain.startswith("fill_departs_at-00000")


def test_where_there_is_room_all_of_it_is_there() -> None:
    text = "\n".join(drawn([a_view()]))
    for expected in (
        "fill_departs_at-00000  running  flights.departs_at",
        "41 %",
        "41,000 of 100,000   400 rows/s",
        "its rate of 500/s",
        "10 rows, to be taken again",
        "1,000 rows, 990 wait for somebody   22P02 1,000",
        "█▓░",
        "slot 1  slice 2",
        "1,500 rows",
        "48 ms a batch",
        "lag ",
        "calm",
        "tuned: rate 1000/s → none",
        "it has begun: 100,000 rows to do",
    ):
        assert expected in text


def test_what_matters_least_is_left_out_first() -> None:
    """Of a run with 15 lines; signals that complain come before who works, all others after."""
    high = drawn([a_view()], height=40)
    for height in range(len(high), 2, -1):
        lines = drawn([a_view()], height=height)
        assert lines == [line for line in high if line in lines], "their order stays"
        assert "━" in lines[1]
    low = "\n".join(drawn([a_view()], height=9))
    assert "lag " in low
    assert "calm" not in low
    assert "slot 0" not in low
    assert "tuned" in "\n".join(drawn([a_view()], height=10)), "the newest event is the last to go"
    assert "enqueued" not in "\n".join(drawn([a_view()], height=10))


def test_all_signals_are_shown_before_what_can_be_left_out_where_that_is_wanted() -> None:
    assert "calm" in "\n".join(drawn([a_view()], height=10, all_signals=True))


def test_where_two_lines_a_run_are_too_many_each_has_one() -> None:
    views = [a_view(number) for number in range(20)]
    lines = drawn(views, height=10)
    assert len(lines) == 10
    assert all("41 %" in line for line in lines[:9])
    assert lines[-1] == "and 11 more runs"


def test_a_paused_run_says_why_and_makes_no_estimate() -> None:
    view = a_view(state="paused")
    pause = Pause(
        run="r", cause=PauseCause.USER, reason="lunch", ends="", caused_by="ada", since=NOW
    )
    progress = replace(view.progress, pauses=[pause])
    lines = drawn([replace(view, picture=replace(view.picture, progress=progress))], height=4)
    assert "paused (user)" in lines[0]
    assert "left" not in lines[1]
    assert "user: lunch" in "\n".join(lines)


def test_a_terminal_that_knows_ascii_only_gets_nothing_else() -> None:
    lines = drawn([a_view()], ascii_only=True)
    assert "#" in lines[1]
    without_arrow = [line for line in lines if "tuned" not in line]
    assert all(line.isascii() for line in without_arrow)


# ----------------------------------------------------------------------------------- the charts


@given(st.floats(-1, 2), st.integers(1, 200), st.booleans())
def test_a_bar_is_as_wide_as_it_should_be(share: float, width: int, ascii_only: bool) -> None:
    done, rest = bar(share, width, ascii_only=ascii_only)
    assert len(done) + len(rest) == width
    assert bool(done) == (share * width * (1 if ascii_only else 2) >= 1)


def at(second: float) -> datetime:
    return BEGAN + timedelta(seconds=second)


def test_a_sparkline_shows_the_rate_of_each_second() -> None:
    marks = [(at(0), 0), (at(4), 400), (at(6), 400), (at(8), 1200)]
    found = spark(marks, begin=BEGAN, end=at(8), width=20)
    assert found is not None
    assert (found.line, found.most, found.seconds) == ("▃▃▃▃  ██", 400.0, 8.0)


def test_a_long_run_is_shown_in_the_steps_that_fit() -> None:
    marks = [(at(60 * minute), 6_000 * minute) for minute in range(61)]
    found = spark(marks, begin=BEGAN, end=at(3600), width=30)
    assert found is not None
    assert found.line == "█" * 30
    assert found.most == pytest.approx(100)


def test_too_little_is_no_sparkline() -> None:
    assert spark([(at(0.4), 9)], begin=BEGAN, end=at(0.4), width=20) is None


def test_neighbouring_cells_share_a_character_where_there_are_too_many() -> None:
    cells = [cell(number, done=1) for number in range(1, 100)]
    cells.append(cell(100, walk=1, failing=1))
    drawn = slice_map(cells, 20)
    assert len(drawn) == 20
    assert (drawn[0][0], drawn[-1][0]) == ("█", "!")


# ------------------------------------------------------------------------------------- in words


@pytest.mark.parametrize(
    ("name", "detail", "expected"),
    [
        (Event.RUN_PAUSED, {"cause": "user", "reason": "lunch"}, "paused (user): lunch"),
        (Event.RUN_BEGUN, {"total_rows": None}, "how many rows there are is not known"),
        (Event.RUN_SWEEPING, {"deferred": 1}, "1 deferred row left to sweep"),
        (Event.RUN_SLOWED, {"speed": 0.25, "reasons": ["lag"]}, "25 % of full speed: lag"),
        (Event.RUN_SLOWED, {"speed": 1.0, "reasons": []}, "back at full speed"),
        # another cause may pause the run still: nothing is said of going on
        (Event.RUN_RESUMED, {"causes": ["signal", "window"]}, "pause lifted (signal, window)"),
        (
            Event.ROWS_QUARANTINED,
            {"slice": 3, "rows": 2, "sqlstates": ["22P02"]},
            "2 rows of slice 3 quarantined (22P02)",
        ),
        ("cheese.melted", {"degrees": 60}, "cheese.melted degrees=60"),
    ],
)
def test_events_are_told_in_words(name: str, detail: dict[str, Any], expected: str) -> None:
    assert expected in told(event(1, name, **detail))


def test_no_event_of_the_ledger_breaks_the_words_for_lack_of_a_field() -> None:
    assert all(told(event(1, name)) for name in Event)


def test_what_is_left_is_told_with_its_interval_in_one_unit() -> None:
    text = show.left(a_view().progress)
    assert text.startswith("about 2.5 min left (")
    assert text.endswith(" min)")
