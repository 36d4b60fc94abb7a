"""The estimate of the end, against the end: on the demo's flights, with two workers.

At every second from a tenth of the rows on, until the run has succeeded:

- error: |predicted total duration - true total duration| / true total duration, where the total is
  from the run's beginning (`started_at`) to its end (`finished_at`);
- its two parts, with their signs: of the walk (its rate, and how many rows are left), and of the
  end (the completion check), by the event with which the run had walked all its slices;
- inside: whether the true end lay within the stated interval;
- a second without an estimate counts as unknown, and the goal is then missed.

`steady` keeps a rate, `full` has none. In `halved` somebody halves the rate in the middle, and in
`beside` an application at full tilt begins on another table in the middle: no estimate can know
that before, so the errors before the middle are of the change, and those after it are told apart.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime

from backfill.engine.enqueue import person
from backfill.entry import enqueue_in
from backfill.job import Options
from backfill.local import flights
from backfill.watch.progress import Progress
from benchmarks.application import application
from benchmarks.bed import Bed, running_workers

WAYS = ("steady", "full", "halved", "beside")
#: From this share of the rows on, the error is to be at most GOAL.
FROM_SHARE = 0.1
GOAL = 0.2
#: The application's table, and how long it works at most.
PEOPLE = 50_000
APPLICATION_SECONDS = 20.0
#: After a change the rate of before is forgotten in so many seconds (three time constants).
SETTLING_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Judged:
    """One second's estimate.

    Attributes:
        after: seconds since the run's beginning.
        error: see the module; None: there was no estimate.
        of_walk, of_end: its parts, shares of the true duration as well; > 0: too long.
    """

    after: float
    error: float | None
    of_walk: float = 0.0
    of_end: float = 0.0
    is_inside: bool = False


def judge(seen: Progress, *, true_seconds: float, walked_seconds: float) -> Judged:
    """What an estimate was worth, once the end is known."""
    assert seen.run.started_at is not None
    after = (seen.at - seen.run.started_at).total_seconds()
    eta = seen.eta
    if eta is None:
        return Judged(after, None)
    high = float("inf") if eta.high_seconds is None else eta.high_seconds
    walk_left = max(0.0, walked_seconds - after)
    end_left = true_seconds - max(after, walked_seconds)
    return Judged(
        after,
        abs(after + eta.seconds - true_seconds) / true_seconds,
        (eta.seconds - eta.end_seconds - walk_left) / true_seconds,
        (eta.end_seconds - end_left) / true_seconds,
        after + eta.low_seconds <= true_seconds <= after + high,
    )


def told(judged: Sequence[Judged]) -> str:
    """Worst and median error, share inside, and whether the goal is met."""
    errors = [one.error for one in judged if one.error is not None]
    if not errors:
        return "no estimate"
    unknown = len(judged) - len(errors)
    inside = sum(one.is_inside for one in judged) / len(errors)
    is_met = max(errors) <= GOAL and not unknown
    worst = max(judged, key=lambda one: one.error or 0.0)
    return (
        f"worst {max(errors):.3f} (walk {worst.of_walk:+.3f}, end {worst.of_end:+.3f}),"
        f" median {statistics.median(errors):.3f},"
        f" inside the interval {inside:.0%} of {len(errors)} s, unknown {unknown} s"
        f" (goal {GOAL}: {'met' if is_met else 'not met'})"
    )


def measure(bed: Bed, *, rate: int, ways: Sequence[str]) -> None:
    """Print a line for each way; for a change in the middle one before and one after it."""
    for way in ways:
        _load(bed)
        with running_workers(bed, 2), ExitStack() as stack:
            _one(bed, way, rate, stack)


def _one(bed: Bed, way: str, rate: int, stack: ExitStack) -> None:
    change: Callable[[str], None] | None = None
    if way == "halved":
        change = lambda run: _tune(bed, run, rate // 2)  # noqa: E731
    elif way == "beside":

        def change(run: str) -> None:
            del run
            stack.enter_context(
                application(bed, rows=PEOPLE, rate=None, seconds=APPLICATION_SECONDS)
            )

    seen, changed_at = _follow(bed, None if way in {"full", "beside"} else f"{rate}/s", change)
    last = seen[-1].run
    assert last.started_at is not None
    assert last.finished_at is not None
    true_seconds = (last.finished_at - last.started_at).total_seconds()
    walked_seconds = (_walked_at(bed, last.id) - last.started_at).total_seconds()
    judged = [
        judge(one, true_seconds=true_seconds, walked_seconds=walked_seconds)
        for one in seen
        if one.run.run_state.is_live and (one.share or 0.0) >= FROM_SHARE
    ]
    end = true_seconds - walked_seconds
    print(f"eta, {way}: {true_seconds:.1f} s, of which {end:.2f} s the end")
    if changed_at is None:
        print(f"  {told(judged)}")
        return
    print(f"  before the change at {changed_at:.0f} s: {told(_of(judged, 0.0, changed_at))}")
    settled = changed_at + SETTLING_SECONDS
    print(f"  in the {SETTLING_SECONDS:g} s after it: {told(_of(judged, changed_at, settled))}")
    if later := _of(judged, settled, float("inf")):
        print(f"  later: {told(later)}")


def _of(judged: Sequence[Judged], since: float, until: float) -> list[Judged]:
    return [one for one in judged if since <= one.after < until]


def _follow(
    bed: Bed, rate: str | None, change: Callable[[str], None] | None
) -> tuple[list[Progress], float | None]:
    """What was known at each second, the end last; and when the change was made."""
    declaration = bed.project.declaration("fill_departs_at")
    options = Options(rate=rate, concurrency=2)
    run = enqueue_in(bed.project, declaration, params={}, options=options, by=person()).run.id
    gallery = bed.project.gallery("default")
    seen: list[Progress] = []
    changed_at = None
    try:
        while not seen or seen[-1].run.run_state.is_live:
            progress = gallery.picture(run).progress
            if progress.pauses:
                raise SystemExit(f"{run} is paused: {progress.limited_by}")
            if not seen or (progress.at - seen[-1].at).total_seconds() >= 0.9 or _ended(progress):
                seen.append(progress)
            if change is not None and (progress.share or 0.0) >= 0.5:
                change(run)
                began = progress.run.started_at
                changed_at = None if began is None else (progress.at - began).total_seconds()
                change = None
            time.sleep(0.05)
    finally:
        gallery.close()
    return seen, changed_at


def _walked_at(bed: Bed, run: str) -> datetime:
    row = bed.conn.execute(
        "SELECT max(at) FROM backfill.event WHERE run = %s AND name = 'run.sweeping'", [run]
    ).fetchone()
    assert row is not None
    at: datetime = row[0]
    return at


def _ended(progress: Progress) -> bool:
    return not progress.run.run_state.is_live


def _tune(bed: Bed, run: str, rate: int) -> None:
    command = [sys.executable, "-m", "backfill", "--project", str(bed.folder), "tune", run]
    subprocess.run(
        [*command, "--rate", f"{rate}/s", "--yes"],
        env=dict(bed.project.environ),
        check=True,
        stdout=subprocess.DEVNULL,
    )


def _load(bed: Bed) -> None:
    """The flights anew, as the demo has them before its first run; and the application's table."""
    bed.conn.execute("DROP SCHEMA public CASCADE")
    bed.conn.execute("CREATE SCHEMA public")
    flights.load(bed.conn)
    flights.expand(bed.conn)
    bed.table(PEOPLE)
    bed.conn.execute("VACUUM ANALYZE flights")
