"""What watching costs: runs with all of it against runs with none, by turns, on the same data.

All of it: checkpoint, counts of batches, task events, pictures and pulses each second, and a
`backfill watch` on a terminal. None: benchmarks/unwatched.py, and nobody who watches. Each run has
the table rebuilt before it, its result checked, and workers of its own, which have started before.
"""

from __future__ import annotations

import os
import pty
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from backfill.engine.enqueue import person
from backfill.entry import enqueue_in
from backfill.job import Options
from benchmarks.bed import Bed, running_workers, wait_for

#: What watching may cost of a run's rows/s.
GOAL_SHARE = 0.02
JOBS = ("slug_sql", "slug_python")


def measure(bed: Bed, *, rows: int, rounds: int) -> None:
    """Print the medians and their ratio, for each kind of job."""
    for job in JOBS:
        watched: list[float] = []
        unwatched: list[float] = []
        for number in range(rounds):
            # who is first is slower or faster at times: each is so in half of the rounds
            arms = [(True, watched), (False, unwatched)]
            for is_watched, speeds in arms if number % 2 == 0 else arms[::-1]:
                speeds.append(rows / _run(bed, job, rows, is_watched=is_watched))
        ratio = statistics.median(watched) / statistics.median(unwatched)
        pairs = [one / other for one, other in zip(watched, unwatched, strict=True)]
        print(
            f"watching, {job}: {statistics.median(watched):,.0f} rows/s with all of it,"
            f" {statistics.median(unwatched):,.0f} without; ratio {ratio:.3f}"
            f" (goal {1 - GOAL_SHARE}: {'met' if ratio >= 1 - GOAL_SHARE else 'not met'});"
            f" by rounds {', '.join(f'{pair:.3f}' for pair in pairs)}"
        )


def _run(bed: Bed, job: str, rows: int, *, is_watched: bool) -> float:
    bed.table(rows)
    module, prefix = ("backfill", "w") if is_watched else ("benchmarks.unwatched", "u")
    with ExitStack() as stack:
        stack.enter_context(running_workers(bed, 2, module=module, prefix=prefix))
        stack.enter_context(_waiting_run(bed))
        if is_watched:
            stack.enter_context(_watcher(bed))
        seconds = bed.run(job, Options(concurrency=2))
    bed.check_slugs(rows)
    bed.conn.execute("DELETE FROM backfill.worker")
    return seconds


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
