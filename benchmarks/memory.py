"""Memory: the largest resident set of a worker's child over 10,000 and over 1,000,000 rows."""

from __future__ import annotations

import subprocess
from pathlib import Path

from backfill.job import Options
from benchmarks.bed import Bed, running_workers


def children_of(pid: int) -> list[int]:
    """A process's children (Linux)."""
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    return [int(line) for line in found.stdout.split()]


def peak_bytes(pid: int) -> int:
    """The largest resident set so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"process {pid} has no VmHWM")


def measure(bed: Bed, *, rows: int) -> None:
    """Print both, and their difference."""
    with running_workers(bed, 1) as (worker,):
        options = Options(concurrency=1)
        peaks = []
        for size in (10_000, rows):
            bed.table(size)
            bed.run("slug_python", options)
            bed.check_slugs(size)
            peaks.append(max(peak_bytes(pid) for pid in children_of(worker.pid)))
            print(f"after {size:>9,} rows: {peaks[-1] / 2**20:.1f} MB")
        print(f"difference: {(peaks[1] - peaks[0]) / 2**20:.1f} MB")
