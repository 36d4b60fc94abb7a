"""How long `backfill --help` takes: the median of ten."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time


def measure() -> None:
    """Print it, beside a bare Python's start."""
    for what, arguments in (
        ("python -c pass", ["-c", "pass"]),
        ("backfill --help", ["-m", "backfill", "--help"]),
    ):
        times = []
        for _ in range(10):
            started = time.perf_counter()
            subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
            times.append(time.perf_counter() - started)
        print(f"{what}: {statistics.median(times):.3f} s")
