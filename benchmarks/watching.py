"""What watching costs: runs with all of it against runs with none, by turns, on the same data.

All of it: checkpoint, counts of batches, task events, pictures and pulses each second, and a
`backfill watch` on a terminal. None: benchmarks/unwatched.py, and nobody who watches. Each run has
the table rebuilt before it, its result checked, and workers of its own, which have started before.

Three measures, of which the third is the sharpest:

- rows per second at full speed, which is what a user sees, and which varies by a quarter from one
  run to the next on a shared machine;
- rows by second of CPU, that of servers, workers and watchers;
- seconds of CPU by second of the run that watching itself took, part by part: that of `watch`; that
  of the calls which the runs without leave out (benchmarks/watched.py), in the workers' main
  processes and in their children; that of the backends of PostgreSQL which read the pictures; and
  what Redis took with it, less what it took without.
"""

from __future__ import annotations

import os
import pty
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from backfill.engine.enqueue import person
from backfill.entry import enqueue_in
from backfill.job import Options
from benchmarks.bed import Bed, running_workers, wait_for
from benchmarks.watched import forget, spent

#: What watching may cost of a run's rows/s.
GOAL_SHARE = 0.02
JOBS = ("slug_sql", "slug_python")
#: Where watching takes CPU.
PARTS = ("watch", "workers", "children", "postgresql", "redis")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run took, in seconds.

    Attributes:
        cpu: of all processes.
        parts: of CPU, what watching took of it, by PARTS; of Redis, all that it took.
    """

    wall: float
    cpu: float
    parts: Mapping[str, float]


def measure(bed: Bed, *, rows: int, rounds: int) -> None:
    """Print the medians of the pairs' ratios, with their quartiles, for each kind of job."""
    for job in JOBS:
        pairs: list[tuple[Cost, Cost]] = []
        for number in range(rounds):
            # who is first is slower or faster at times: each is so in half of the rounds
            order = (True, False) if number % 2 == 0 else (False, True)
            costs = {watched: _run(bed, job, rows, is_watched=watched) for watched in order}
            pairs.append((costs[True], costs[False]))
        with_it, without = (
            rows / statistics.median(pair[i].wall for pair in pairs) for i in range(2)
        )
        print(f"watching, {job}: {with_it:,.0f} rows/s with all of it, {without:,.0f} without")
        _tell("rows/s", [without.wall / with_it.wall for with_it, without in pairs])
        _tell("rows by CPU second", [without.cpu / with_it.cpu for with_it, without in pairs])
        _tell_parts(pairs)


def _tell_parts(pairs: Sequence[tuple[Cost, Cost]]) -> None:
    """What each part of watching takes, by second of the run."""
    cores = os.cpu_count() or 1
    spent = {
        part: statistics.median(
            with_it.parts[part] / with_it.wall - without.parts[part] / without.wall
            for with_it, without in pairs
        )
        for part in PARTS
    }
    share = sum(spent.values()) / cores
    told = ", ".join(f"{part} {seconds * 1000:.1f} ms/s" for part, seconds in spent.items())
    print(
        f"    CPU of watching, {told}: {share:.2%} of {cores} cores"
        f" (goal {GOAL_SHARE:.0%}: {'met' if share <= GOAL_SHARE else 'not met'})"
    )


def _tell(what: str, ratios: Sequence[float]) -> None:
    middle = statistics.median(ratios)
    low, _, high = statistics.quantiles(ratios, n=4)
    print(
        f"    {what}, with to without: {middle:.3f} (quartiles {low:.3f} to {high:.3f};"
        f" goal {1 - GOAL_SHARE}: {'met' if middle >= 1 - GOAL_SHARE else 'not met'});"
        f" by rounds {', '.join(f'{ratio:.3f}' for ratio in ratios)}"
    )


@dataclass(frozen=True, slots=True)
class _Clock:
    """CPU seconds so far; of what watches, and of all processes of the bed."""

    cpu: float
    parts: Mapping[str, float]


def _clock(bed: Bed, workers: Sequence[int], watcher: int | None) -> _Clock:
    """Read it; other programs of the machine are left out.

    Linux, proc(5), /proc/PID/stat: utime, stime, and both of children that were waited for.

    Args:
        workers: process ids of the workers' main processes.
        watcher: that of `backfill watch`; None: nobody watches.
    """
    used: dict[int, tuple[int, float]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            found = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        seconds = sum(map(int, found[11:15])) / os.sysconf("SC_CLK_TCK")
        used[int(path.parent.name)] = (int(found[1]), seconds)

    def own(pid: int | None) -> float:
        return used[pid][1] if pid in used else 0.0

    def with_all_below(pids: set[int]) -> float:
        children = {pid for pid, (parent, _) in used.items() if parent in pids}
        return sum(map(own, pids)) + (with_all_below(children) if children else 0.0)

    watching = spent(bed.folder)
    roots = {*workers, bed.postgres.pid, bed.redis.pid, watcher}
    parts = {
        "watch": own(watcher),
        "workers": sum(one.seconds for pid, one in watching.items() if pid in workers),
        "children": sum(one.seconds for pid, one in watching.items() if pid not in workers),
        "postgresql": sum(own(pid) for one in watching.values() for pid in one.backends),
        "redis": own(bed.redis.pid),
    }
    return _Clock(cpu=with_all_below({pid for pid in roots if pid is not None}), parts=parts)


def _run(bed: Bed, job: str, rows: int, *, is_watched: bool) -> Cost:
    bed.table(rows)
    kind, prefix = ("watched", "w") if is_watched else ("unwatched", "u")
    with ExitStack() as stack:
        started = stack.enter_context(
            running_workers(bed, 2, module=f"benchmarks.{kind}", prefix=prefix)
        )
        workers = [worker.pid for worker in started]
        stack.enter_context(_waiting_run(bed))
        watcher = stack.enter_context(_watcher(bed)) if is_watched else None
        before = _clock(bed, workers, watcher)
        wall = bed.run(job, Options(concurrency=2))
        after = _clock(bed, workers, watcher)
    forget(bed.folder)
    bed.check_slugs(rows)
    bed.conn.execute("DELETE FROM backfill.worker")
    return Cost(
        wall=wall,
        cpu=after.cpu - before.cpu,
        parts={part: after.parts[part] - before.parts[part] for part in PARTS},
    )


@contextmanager
def _waiting_run(bed: Bed) -> Iterator[None]:
    """A run that waits for its hour, so that `watch` has one before the one that is measured."""
    run = enqueue_in(
        bed.project,
        bed.project.declaration("increment"),
        params={},
        options=Options(start_at="2099-01-01T00:00+00:00"),
        by=person(),
    ).run
    try:
        yield
    finally:
        bed.conn.execute("DELETE FROM backfill.run WHERE id = %s", [run.id])


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
