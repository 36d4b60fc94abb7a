"""What watching costs: with all of it and with none of it, by turns of some seconds, in one run.

All of it: checkpoint, counts of batches, task events, pictures and pulses each second, and a
`backfill watch` on a terminal. None: benchmarks/switched.py leaves out the calls, and `watch` is
stopped. Two turns that are next to each other are a pair, and who is first in it changes from pair
to pair; a shared machine's speed changes from one minute to the next, and by less within a pair.

- Rows per second at full speed, pair by pair, which is what a user sees.
- Seconds of CPU by second that watching itself took, part by part: of `watch`; of the calls that
  are left out, in the workers' main processes and in their children; of PostgreSQL's backends that
  read the pictures; and what Redis took with it, less what it took without.
- Seconds that a slot stood in these calls, waiting for Redis included.
"""

from __future__ import annotations

import os
import pty
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import product

from backfill.job import Options
from benchmarks.bed import Bed, running_workers, wait_for
from benchmarks.switched import Switch, spent

#: What watching may cost of a run's rows/s.
GOAL_SHARE = 0.02
JOBS = ("slug_sql", "slug_python")
#: How long each turn is: that of a task, so that each has its end.
TURN_SECONDS = 5.0
#: A run's beginning is left out.
WARM_SECONDS = 2.0
#: Where watching takes CPU.
PARTS = ("watch", "workers", "children", "postgresql", "redis")


@dataclass(frozen=True, slots=True)
class _Clock:
    """A run and its processes at an instant; seconds and rows so far.

    Attributes:
        cpu: what watching took of it, by PARTS; of Redis, all that it took.
        stood: of all slots in calls that watch.
    """

    at: float
    rows: int
    cpu: Mapping[str, float]
    stood: float


@dataclass(frozen=True, slots=True)
class Turn:
    """From one instant to another."""

    before: _Clock
    after: _Clock

    @property
    def seconds(self) -> float:
        return self.after.at - self.before.at

    @property
    def rows_per_second(self) -> float:
        return (self.after.rows - self.before.rows) / self.seconds

    def cpu(self, part: str) -> float:
        return self.after.cpu[part] - self.before.cpu[part]

    @property
    def stood(self) -> float:
        return self.after.stood - self.before.stood


#: A turn with all of it, and one with none.
Pair = tuple[Turn, Turn]


def measure(bed: Bed, *, rows: int, pairs: int, slots: Sequence[int]) -> None:
    """Print what watching costs each kind of job; a run's rows are enough for some of the pairs."""
    for number, job in product(slots, JOBS):
        found: list[Pair] = []
        while len(found) < max(2, pairs):  # of fewer there are no quartiles
            more = _run(bed, job, rows, slots=number)
            if not more:
                raise SystemExit(f"{rows:,} rows are done before two turns: --watched-rows more")
            found += more
        _tell(f"{job} by {number} slots", found, slots=number)


def _tell(what: str, pairs: Sequence[Pair], *, slots: int) -> None:
    with_it, without = (
        statistics.median(pair[i].rows_per_second for pair in pairs) for i in range(2)
    )
    ratios = sorted(on.rows_per_second / off.rows_per_second for on, off in pairs)
    middle, (low, _, high) = statistics.median(ratios), statistics.quantiles(ratios, n=4)
    surely = _interval(ratios)
    print(f"watching, {what}: {with_it:,.0f} rows/s with all of it, {without:,.0f} without")
    print(
        f"    rows/s, with to without: {middle:.3f} ({len(pairs)} pairs, quartiles {low:.3f} to"
        f" {high:.3f}; the median is between {surely[0]:.3f} and {surely[1]:.3f} at 95 %;"
        f" goal {1 - GOAL_SHARE}: {_met(middle >= 1 - GOAL_SHARE)})"
    )
    cores = os.cpu_count() or 1
    seconds = [sum(pair[i].seconds for pair in pairs) for i in range(2)]
    took = {part: sum(on.cpu(part) for on, _ in pairs) / seconds[0] for part in PARTS}
    took["redis"] -= sum(off.cpu("redis") for _, off in pairs) / seconds[1]
    share = sum(took.values()) / cores
    told = ", ".join(f"{part} {one * 1000:.1f} ms/s" for part, one in took.items())
    print(
        f"    CPU of watching, {told}: {share:.2%} of {cores} cores"
        f" (goal {GOAL_SHARE:.0%}: {_met(share <= GOAL_SHARE)})"
    )
    stood = sum(on.stood for on, _ in pairs) / seconds[0] / slots
    print(
        f"    a slot stood in calls that watch for {stood:.2%} of the time"
        f" (goal {GOAL_SHARE:.0%}: {_met(stood <= GOAL_SHARE)})"
    )


def _met(yes: bool) -> str:
    return "met" if yes else "not met"


def _interval(ordered: Sequence[float]) -> tuple[float, float]:
    """Where their median is, at 95 %: the sign test's order statistics (Conover, 1999, 3.2)."""
    half = 0.98 * len(ordered) ** 0.5  # 1.96 standard deviations of a binomial with p = 1/2
    below = max(0, int(len(ordered) / 2 - half))
    return ordered[below], ordered[len(ordered) - 1 - below]


def _run(bed: Bed, job: str, rows: int, *, slots: int) -> list[Pair]:
    """One run, with its table anew and its result checked."""
    bed.table(rows)
    switch = Switch(bed.folder)
    switch.turn(on=True)
    pairs: list[Pair] = []
    with ExitStack() as stack:
        started = stack.enter_context(running_workers(bed, 2, module="benchmarks.switched"))
        stack.enter_context(_waiting_run(bed))
        watcher = stack.enter_context(_watcher(bed))
        run = bed.enqueue(job, Options(concurrency=slots))
        watch = _Watch(bed, run, {worker.pid for worker in started}, watcher)
        wait_for(lambda: watch.clock().rows, 60)
        time.sleep(WARM_SECONDS)
        while True:
            turns = {}
            for on in (True, False) if len(pairs) % 2 == 0 else (False, True):
                switch.turn(on=on)
                os.kill(watcher, signal.SIGCONT if on else signal.SIGSTOP)
                before = watch.clock()
                time.sleep(TURN_SECONDS)
                turns[on] = Turn(before, watch.clock())
            if not watch.walks():
                break
            pairs.append((turns[True], turns[False]))
        switch.turn(on=True)
        os.kill(watcher, signal.SIGCONT)
        wait_for(lambda: bed.state(run) == "succeeded", 60)
    bed.check_slugs(rows)
    bed.conn.execute("DELETE FROM backfill.worker")
    return pairs


class _Watch:
    """Reads a run and its processes.

    Args:
        workers: process ids of the workers' main processes.
        watcher: that of `backfill watch`.
    """

    def __init__(self, bed: Bed, run: str, workers: set[int], watcher: int) -> None:
        self._bed = bed
        self._run = run
        self._workers = workers
        self._watcher = watcher

    def clock(self) -> _Clock:
        row = self._bed.conn.execute(
            "SELECT coalesce(sum(paged), 0)::bigint FROM backfill.slice WHERE run = %s", [self._run]
        ).fetchone()
        watching = spent(self._bed.folder)
        main = [one for pid, one in watching.items() if pid in self._workers]
        children = [one for pid, one in watching.items() if pid not in self._workers]
        backends = {pid for one in watching.values() for pid in one.backends}
        return _Clock(
            at=time.perf_counter(),
            rows=0 if row is None else int(row[0]),
            cpu={
                "watch": _cpu(self._watcher),
                "workers": sum(one.cpu for one in main),
                "children": sum(one.cpu for one in children),
                "postgresql": sum(map(_cpu, backends)),
                "redis": _cpu(self._bed.redis.pid),
            },
            stood=sum(one.wall for one in children),
        )

    def walks(self) -> bool:
        """True while it has rows before it, which the turn that has ended had, too."""
        row = self._bed.conn.execute(
            "SELECT state = 'running' AND NOT frontier_done FROM backfill.run WHERE id = %s",
            [self._run],
        ).fetchone()
        return row is not None and bool(row[0])


def _cpu(pid: int | None) -> float:
    """Seconds of CPU that a process took so far, its threads included; 0 when it has ended.

    Linux: the clock of another process, as clock_getcpuclockid(3) makes it of a process id.
    """
    try:
        return time.clock_gettime((~(pid or 0) << 3) | 2)
    except OSError:
        return 0.0


@contextmanager
def _waiting_run(bed: Bed) -> Iterator[None]:
    """A run that waits for its hour, so that `watch` has one before the one that is measured."""
    run = bed.enqueue("increment", Options(start_at="2099-01-01T00:00+00:00"))
    try:
        yield
    finally:
        bed.conn.execute("DELETE FROM backfill.run WHERE id = %s", [run])


@contextmanager
def _watcher(bed: Bed) -> Iterator[int]:
    """`backfill watch` on a terminal of 120 by 40, which has begun to draw; its process id."""
    main, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "backfill", "--project", str(bed.folder), "watch"],
        env={**bed.project.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
        stdin=subprocess.DEVNULL,
        stdout=side,
        stderr=side,
        start_new_session=True,
    )
    os.close(side)
    drawn = bytearray()
    drain = threading.Thread(target=_drain, args=[main, drawn])
    drain.start()
    try:
        wait_for(lambda: b"limited by" in drawn, 30)
        yield process.pid
        if process.poll() is not None:
            raise SystemExit(f"`watch` ended: {drawn[-500:].decode(errors='replace')}")
    finally:
        process.kill()
        process.wait()
        drain.join()
        os.close(main)


def _drain(main: int, drawn: bytearray) -> None:
    while True:
        try:
            read = os.read(main, 65536)
        except OSError:  # the other side is closed
            return
        if not read:
            return
        drawn += read
