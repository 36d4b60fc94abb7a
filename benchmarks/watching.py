"""What watching costs: runs with all of it against runs with none, by turns, on the same data.

All of it: checkpoint, counts of batches, task events, pictures and pulses each second, and a
`backfill watch` on a terminal. None: benchmarks/unwatched.py, and nobody who watches. Each run has
the table rebuilt before it, its result checked, and workers of its own, which have started before.

Three measures, of which the third is the sharpest:

- rows per second at full speed, which is what a user sees, and which varies by a quarter from one
  run to the next on a shared machine;
- rows by second of CPU at full speed, that of servers, workers and watchers;
- seconds of CPU by second of a run that is held to PACE rows per second, so that what differs is
  the watching and not the work: what it takes of the machine's cores. Where all of them are at work
  that is its share of the speed, because watching goes by time (a picture each second, a checkpoint
  at most each 50 ms) and not by rows.
"""

from __future__ import annotations

import os
import pty
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
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
#: Rows per second of the runs that are held, and for how many seconds they are.
PACE, PACED_SECONDS = 20_000, 20


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run took; both in seconds."""

    wall: float
    cpu: float


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
    _measure_paced(bed, rounds=rounds)


def _measure_paced(bed: Bed, *, rounds: int) -> None:
    """Print what of the machine's cores watching takes, by the job that does least itself."""
    cores = os.cpu_count() or 1
    shares = []
    for number in range(rounds):
        order = (True, False) if number % 2 == 0 else (False, True)
        rows, rate = PACE * PACED_SECONDS, f"{PACE}/s"
        spent = {}
        for watched in order:
            cost = _run(bed, JOBS[0], rows, is_watched=watched, rate=rate)
            spent[watched] = cost.cpu / cost.wall / cores
        shares.append(spent[True] - spent[False])
    low, middle, high = statistics.quantiles(shares, n=4)
    print(
        f"watching, at {PACE:,} rows/s: {middle:.2%} of {cores} cores"
        f" (quartiles {low:.2%} to {high:.2%}; goal {GOAL_SHARE:.0%}:"
        f" {'met' if middle <= GOAL_SHARE else 'not met'});"
        f" by rounds {', '.join(f'{share:.2%}' for share in shares)}"
    )


def _tell(what: str, ratios: Sequence[float]) -> None:
    middle = statistics.median(ratios)
    low, _, high = statistics.quantiles(ratios, n=4)
    print(
        f"    {what}, with to without: {middle:.3f} (quartiles {low:.3f} to {high:.3f};"
        f" goal {1 - GOAL_SHARE}: {'met' if middle >= 1 - GOAL_SHARE else 'not met'});"
        f" by rounds {', '.join(f'{ratio:.3f}' for ratio in ratios)}"
    )


def _busy_seconds() -> float:
    """CPU seconds of this process, of all that it has started and of what those have (servers,
    workers, watchers), so far; other programs of the machine are left out.

    Linux, proc(5), /proc/PID/stat: utime, stime, and both of children that were waited for.
    """
    spent: dict[int, tuple[int, int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            found = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        spent[int(path.parent.name)] = (int(found[1]), sum(map(int, found[11:15])))
    ours, more = {os.getpid()}, {os.getpid()}
    while more:
        more = {pid for pid, (parent, _) in spent.items() if parent in more}
        ours |= more
    return sum(spent[pid][1] for pid in ours) / os.sysconf("SC_CLK_TCK")


def _run(bed: Bed, job: str, rows: int, *, is_watched: bool, rate: str | None = None) -> Cost:
    bed.table(rows)
    module, prefix = ("backfill", "w") if is_watched else ("benchmarks.unwatched", "u")
    with ExitStack() as stack:
        stack.enter_context(running_workers(bed, 2, module=module, prefix=prefix))
        stack.enter_context(_waiting_run(bed))
        if is_watched:
            stack.enter_context(_watcher(bed))
        busy = _busy_seconds()
        wall = bed.run(job, Options(concurrency=2, rate=rate))
        cost = Cost(wall=wall, cpu=_busy_seconds() - busy)
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
def _watcher(bed: Bed) -> Iterator[None]:
    """`backfill watch` on a terminal of 120 by 40, which has begun to draw."""
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
        yield
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
