"""What the benchmark of gentleness says: its tables, its judgement, and the page that shows them.

`python -m benchmarks gentle --publish` replaces what stands between two comments in
docs/gentleness.md, and draws docs/images/gentleness.svg anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.application import LOGGED_MS, Latencies
from benchmarks.plot import Mark, Series, draw

PAGE = Path(__file__).parents[1] / "docs" / "gentleness.md"
PICTURE = PAGE.parent / "images" / "gentleness.svg"
BEGIN = "<!-- measured: replaced by `python -m benchmarks gentle --publish` -->"
END = "<!-- end of what was measured -->"

GENTLE_NAME = "a run with `--gentle`"
#: The goal: the application's p99 at most so many times its value alone, at least this share of
#: the run's full speed, no longer lock wait.
GOAL_P99 = 2.0
GOAL_SHARE = 0.15
GOAL_WAIT_MS = 50.0

NONE = "\u2013"
HEAD = (
    "| beside it | transactions/s | p50 ms | p95 ms | p99 ms | longest ms"
    f" | p99 from its begin ms | lock waits over {LOGGED_MS} ms | longest lock wait ms"
    " | rows/s | of full speed | slowed |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|"
)
CURVE_HEAD = (
    "| slots | duty | `target_batch_seconds` | rows/s | of full speed | p50 ms | p95 ms | p99 ms"
    " | p99 to that alone | p99 from its begin ms | longest ms | longest lock wait ms | slowed |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The application beside one way.

    Attributes:
        waits_ms: lock waits of the application that the work caused, those that were logged.
        rows_per_second: the work's; None: there was none.
        slowed: how often signals slowed or paused the run.
    """

    name: str
    latencies: Latencies
    waits_ms: Sequence[float]
    rows_per_second: float | None
    slowed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One point of the curve."""

    slots: int
    duty: float
    batch_seconds: float
    measured: Measured


def line(measured: Measured, full_speed: float) -> str:
    """A way as a row of the table."""
    got, speed = measured.latencies, measured.rows_per_second
    cells = [
        measured.name,
        f"{got.tps:,.0f}",
        *(_ms(value) for value in (got.p50, got.p95, got.p99, got.longest, got.begun_p99)),
        NONE if speed is None else f"{len(measured.waits_ms):,}",
        NONE if speed is None else _wait(measured.waits_ms),
        NONE if speed is None else f"{speed:,.0f}",
        NONE if speed is None else _percent(speed / full_speed),
        NONE if speed is None else str(measured.slowed),
    ]
    return f"| {' | '.join(cells)} |"


@dataclass(slots=True)
class Page:
    """All that was measured in one go.

    Attributes:
        about: the machine and the amount, for the reader.
        rate: transactions a second that arrived, where they did.
        full_speed: rows/s of a run with nothing beside it.
        arriving, full_tilt: the ways under the two loads, "nothing" first.
        alone: the application alone, when the curve was measured.
    """

    about: str
    rate: int
    full_speed: float = 0.0
    arriving: list[Measured] = field(default_factory=list)
    full_tilt: list[Measured] = field(default_factory=list)
    alone: Measured | None = None
    curve: list[Point] = field(default_factory=list)

    def curve_line(self, point: Point) -> str:
        """A point as a row of the curve's table."""
        got = point.measured.latencies
        cells = [
            str(point.slots),
            f"{point.duty:g}",
            f"{point.batch_seconds:g}",
            f"{point.measured.rows_per_second or 0:,.0f}",
            _percent(self._share(point.measured)),
            *(_ms(value) for value in (got.p50, got.p95, got.p99)),
            f"{self._ratio(point.measured):.1f}",
            _ms(got.begun_p99),
            _ms(got.longest),
            _wait(point.measured.waits_ms),
            str(point.measured.slowed),
        ]
        return f"| {' | '.join(cells)} |"

    def verdict(self) -> str:
        """Whether the goal is met, by `--gentle` and by the curve's points."""
        (gentle,) = (m for m in self.arriving if m.name == GENTLE_NAME)
        ratio = gentle.latencies.p99 / self.arriving[0].latencies.p99
        share, wait = self._share(gentle), max(gentle.waits_ms, default=0.0)
        rows = [
            (f"p99 at most {GOAL_P99:g} times that alone", f"{ratio:.1f} times", ratio <= GOAL_P99),
            (
                f"at least {_percent(GOAL_SHARE)} of its full speed",
                _percent(share),
                share >= GOAL_SHARE,
            ),
            (
                f"no lock wait caused by it over {GOAL_WAIT_MS:g} ms",
                f"{_wait(gentle.waits_ms)} ms",
                wait <= GOAL_WAIT_MS,
            ),
        ]
        told = [
            f"The goal at {self.rate:,} transactions/s, and what {GENTLE_NAME} reached:",
            "",
            "| goal | reached | |",
            "|---|---|---|",
            *(f"| {goal} | {value} | {'met' if met else 'not met'} |" for goal, value, met in rows),
        ]
        if self.curve:
            told += ["", f"Points of the curve that meet all three: {self._good() or 'none'}."]
        return "\n".join(told)

    def text(self) -> str:
        """What stands in the docs."""
        parts = [
            f"Measured on {self.about}; a run alone at full speed: {self.full_speed:,.0f} rows/s."
        ]
        for title, ways in (
            (f"{self.rate:,} transactions/s arriving", self.arriving),
            ("Full tilt: four clients, each as fast as it can", self.full_tilt),
        ):
            rows = "\n".join(line(measured, self.full_speed) for measured in ways)
            parts.append(f"### {title}\n\n{HEAD}\n{rows}")
        parts.append(f"### The goal\n\n{self.verdict()}")
        if self.curve and self.alone is not None:
            rows = "\n".join(self.curve_line(point) for point in self.curve)
            parts.append(
                "### The curve\n\n"
                f"![A run's speed and the application's p99, by batch time and duty]"
                f"(images/{PICTURE.name})\n\n"
                f"At {self.rate:,} transactions/s; alone, the application's p99 was"
                f" {_ms(self.alone.latencies.p99)} ms.\n\n{CURVE_HEAD}\n{rows}"
            )
        return "\n\n".join(parts)

    def picture(self) -> str:
        """The curve as SVG."""
        assert self.alone is not None
        alone = self.alone.latencies.p99
        series = [
            Series(
                name=f"duty {duty:g}" + (f", {slots} slots" if len(self._slots()) > 1 else ""),
                points=[
                    Mark(
                        x=self._share(p.measured),
                        y=p.measured.latencies.p99,
                        label=f"{p.batch_seconds * 1000:g}",
                    )
                    for p in self.curve
                    if (p.slots, p.duty) == (slots, duty)
                ],
            )
            for slots in self._slots()
            for duty in sorted({p.duty for p in self.curve}, reverse=True)
        ]
        return draw(
            series,
            title=f"A run beside {self.rate:,} transactions/s",
            x_title="the run's speed, as a share of its full speed alone",
            y_title="the application's p99, ms",
            y_lines=[(alone, "alone"), (alone * GOAL_P99, f"{GOAL_P99:g} times alone")],
            x_lines=[(GOAL_SHARE, _percent(GOAL_SHARE))],
            note="The number at a point: target_batch_seconds, in ms.",
        )

    def publish(self) -> None:
        """Replace the docs' table and picture."""
        PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), self.text()), encoding="utf-8")
        if self.curve:
            PICTURE.write_text(self.picture(), encoding="utf-8")

    def _slots(self) -> list[int]:
        return sorted({point.slots for point in self.curve})

    def _share(self, measured: Measured) -> float:
        return (measured.rows_per_second or 0.0) / self.full_speed

    def _ratio(self, measured: Measured) -> float:
        assert self.alone is not None
        return measured.latencies.p99 / self.alone.latencies.p99

    def _good(self) -> str:
        return "; ".join(
            f"{p.batch_seconds:g} s at duty {p.duty:g}, {p.slots} slots"
            for p in self.curve
            if self._ratio(p.measured) <= GOAL_P99
            and self._share(p.measured) >= GOAL_SHARE
            and max(p.measured.waits_ms, default=0.0) <= GOAL_WAIT_MS
        )


def replaced(page: str, text: str) -> str:
    """The page with `text` between the two comments."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE.name} lacks the comments between which the numbers stand")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def _ms(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"


def _wait(waits_ms: Sequence[float]) -> str:
    return _ms(max(waits_ms)) if waits_ms else f"under {LOGGED_MS}"


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"
