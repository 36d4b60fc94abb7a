"""`python -m benchmarks [startup|speed|profile|resume|memory …] [--rows N] [--rounds N]`."""

from __future__ import annotations

import argparse
import os

from backfill.watch.logs import configure
from benchmarks import memory, profile, resume, speed, startup
from benchmarks.bed import bed

ALL = ("startup", "speed", "profile", "resume", "memory")


def main() -> None:
    """Run the benchmarks that are named, all by default."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("which", nargs="*", choices=[*ALL, []], default=list(ALL))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--few", type=int, default=50_000, help="rows for the slow ways")
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    configure("console", "error")
    print(f"{os.cpu_count()} cores, {chosen.rows:,} rows")
    if "startup" in chosen.which:
        startup.measure()
    if set(chosen.which) == {"startup"}:
        return
    with bed() as made:
        if "speed" in chosen.which:
            speed.measure(made, rows=chosen.rows, few=chosen.few, rounds=chosen.rounds)
        if "profile" in chosen.which:
            profile.measure(made, rows=chosen.rows)
        if "resume" in chosen.which:
            resume.measure(made, rows=chosen.rows)
        if "memory" in chosen.which:
            memory.measure(made, rows=chosen.rows)


if __name__ == "__main__":
    main()
