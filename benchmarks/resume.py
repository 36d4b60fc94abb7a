"""Resuming: how long a killed worker's slice lies still, and how fast SIGTERM is obeyed."""

from __future__ import annotations

import os
import signal
import time

from backfill.engine.enqueue import person
from backfill.entry import enqueue_in
from backfill.job import Options
from benchmarks.bed import Bed, running_workers, wait_for


def measure(bed: Bed, *, rows: int) -> None:
    """Print both, with the settings that are shipped."""
    options = Options(concurrency=2, rate="20000/s", slice_rows=rows)
    bed.table(rows)
    with running_workers(bed, 2) as processes:
        run = enqueue_in(
            bed.project,
            bed.project.declaration("increment"),
            params={},
            options=options,
            by=person(),
        ).run

        def slices() -> dict[int, tuple[str | None, int]]:
            return {
                row[0]: (row[1], row[2])
                for row in bed.conn.execute(
                    "SELECT number, holder, paged FROM backfill.slice WHERE run = %s", [run.id]
                )
            }

        wait_for(lambda: any(paged for _, paged in slices().values()), 60)
        holder = next(holder for holder, _ in slices().values() if holder)
        pid = int(holder.rsplit(":", 1)[1].split(".")[0])
        victim = next(p for p in processes if os.getpgid(pid) == p.pid)
        os.killpg(victim.pid, signal.SIGKILL)
        killed = time.perf_counter()
        number = next(n for n, (h, _) in slices().items() if h == holder)
        stood_at = slices()[number][1]
        wait_for(lambda: slices()[number][1] > stood_at, 75)
        print(f"a killed worker's slice went on after {time.perf_counter() - killed:.1f} s")
        survivor = next(p for p in processes if p is not victim)
        survivor.send_signal(signal.SIGTERM)
        told = time.perf_counter()
        survivor.wait(60)
        print(f"SIGTERM: exit after {time.perf_counter() - told:.1f} s", end="; ")
        held = [h for h, _ in slices().values() if h]
        print("every slice returned" if not held else f"still held: {held}")
    row = bed.conn.execute("SELECT n, count(*) FROM people GROUP BY n ORDER BY n").fetchall()
    print(f"rows by times written, with the run cut off there: {dict(row)}")
    bed.conn.execute("DELETE FROM backfill.run")
