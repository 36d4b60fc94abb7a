"""What watching costs: runs with all of it against runs with none, by turns, on the same data.

All of it: checkpoint, counts of batches, task events, pictures and pulses each second, and a
`backfill watch` on a terminal. None: benchmarks/unwatched.py, and nobody who watches. Each run has
the table rebuilt before it, its result checked, and workers of its own, which have started before.

Three measures, of which the third is the sharpest:

- rows per second at full speed, which is what a user sees, and which varies by a quarter from one
  run to the next on a shared machine;
- rows by second of CPU, that of servers, workers and watchers;
- seconds of CPU by second of the run, part by part, with less without: what watching takes of the
  machine's cores. PostgreSQL is left out there, because its work on the rows varies by more than
  its reading of a picture each second costs (about 2 ms).
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

#: What watching may cost of a run's rows/s.
GOAL_SHARE = 0.02
JOBS = ("slug_sql", "slug_python")
#: Parts whose CPU can be told apart from the work on the rows.
PARTS = ("watch", "workers", "children", "redis")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run took, in seconds.

    Attributes:
        parts: of CPU, by part: PARTS and `postgresql`.
    """

    wall: float
    parts: Mapping[str, float]

    @property
    def cpu(self) -> float:
        return sum(self.parts.values())


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
    """What each part spends more with watching than without, by second of the run."""
    cores = os.cpu_count() or 1
    more = {
        part: statistics.median(
            with_it.parts[part] / with_it.wall - without.parts[part] / without.wall
            for with_it, without in pairs
        )
        for part in PARTS
    }
    share = sum(more.values()) / cores
    told = ", ".join(f"{part} {seconds * 1000:+.1f} ms/s" for part, seconds in more.items())
    print(
        f"    CPU, {told}: {share:.2%} of {cores} cores"
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


def _busy(bed: Bed, workers: Sequence[int], watcher: int | None) -> dict[str, float]:
    """CPU seconds so far, by part; other programs of the machine are left out.

    Linux, proc(5), /proc/PID/stat: utime, stime, and both of children that were waited for.

    Args:
        workers: process ids of the workers' main processes.
        watcher: that of `backfill watch`; None: nobody watches.
    """
    spent: dict[int, tuple[int, float]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            found = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        seconds = sum(map(int, found[11:15])) / os.sysconf("SC_CLK_TCK")
        spent[int(path.parent.name)] = (int(found[1]), seconds)

    def below(roots: set[int]) -> float:
        """What these have started, and what those have."""
        children = {pid for pid, (parent, _) in spent.items() if parent in roots}
        return sum(spent[pid][1] for pid in children) + (below(children) if children else 0.0)

    def own(pid: int | None) -> float:
        return spent[pid][1] if pid in spent else 0.0

    server = bed.postgres.pid
    return {
        "watch": own(watcher),
        "workers": sum(map(own, workers)),
        "children": below(set(workers)),
        "redis": own(bed.redis.pid),
        "postgresql": own(server) + below({server} if server else set()),
    }


def _run(bed: Bed, job: str, rows: int, *, is_watched: bool) -> Cost:
    bed.table(rows)
    module, prefix = ("backfill", "w") if is_watched else ("benchmarks.unwatched", "u")
    with ExitStack() as stack:
        started = stack.enter_context(running_workers(bed, 2, module=module, prefix=prefix))
        workers = [worker.pid for worker in started]
        stack.enter_context(_waiting_run(bed))
        watcher = stack.enter_context(_watcher(bed)) if is_watched else None
        before = _busy(bed, workers, watcher)
        wall = bed.run(job, Options(concurrency=2))
        after = _busy(bed, workers, watcher)
    cost = Cost(wall=wall, parts={part: after[part] - before[part] for part in after})
    bed.check_slugs(rows)
    bed.conn.execute("DELETE FROM backfill.worker")
    return cost


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
