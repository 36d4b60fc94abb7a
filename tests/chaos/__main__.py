"""The long storm, every night: over servers of its own, which are struck as well.

    python -m tests.chaos --kills 1000 --seed 7

Field after field (each key's kind in turn), until so many processes and backends have been ended;
each is checked row by row. The seed is printed first, and again when something is wrong; the folder
with the workers' logs is kept then. Exits with 0 when everything was right.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psycopg

from backfill.local.redis import LocalRedis
from backfill.pg.install import upgrade
from tests.acceptance.crew import QUICK, Crew
from tests.chaos.field import KEYS, Field
from tests.chaos.storm import Storm
from tests.services import embedded_postgres

ROWS = 60_000
RATE = 1_500
WORKERS, CHILDREN = 3, 2
#: A server process that crashes loses nothing that was committed; only the machine's crash is
#: left out, so that the disk need not be waited for.
SETTINGS: dict[str, str | int | float] = {"fsync": False}


def main() -> int:
    """Rage until the kills are dealt; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=None)
    chosen = parser.parse_args()
    seed = random.randrange(2**32) if chosen.seed is None else chosen.seed
    print(f"SEED={seed} KILLS={chosen.kills}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="backfill-chaos-"))
    try:
        _rage(folder, seed, chosen.kills)
    except BaseException:
        print(f"replay it: make chaos SEED={seed} KILLS={chosen.kills} (logs: {folder})")
        raise
    shutil.rmtree(folder)
    return 0


def _rage(folder: Path, seed: int, kills: int) -> None:
    began, dealt, paused, rows = time.monotonic(), Counter[str](), Counter[str](), 0
    with embedded_postgres(SETTINGS) as postgres, LocalRedis() as redis:
        url = postgres.create_database("chaos")
        with psycopg.connect(url, autocommit=True) as conn:
            upgrade(conn)
        crew = Crew(folder, url=url, redis_url=redis.url(), engine=QUICK)
        field = Field(crew, rows=ROWS)
        storm = Storm(
            field,
            seed=seed,
            workers=WORKERS,
            children=CHILDREN,
            pause_seconds=0.2,
            rows_between=300,
            postgres=postgres,
            redis=redis,
        )
        try:
            while storm.kills < kills:
                key = list(KEYS)[rows // ROWS % len(KEYS)]
                crew.keep_alive(WORKERS, children=CHILDREN)
                field.make(key, rate=RATE)
                storm.outlive()
                storm.rage(kills)
                storm.calm()
                rows += ROWS
                print(
                    f"{time.monotonic() - began:6.0f} s  {storm.kills:5d} kills  {rows:,} rows of"
                    f" three jobs right (last key: {key})",
                    flush=True,
                )
        finally:
            dealt, paused = storm.dealt, storm.paused
            crew.close()
    for name, number in dealt.most_common():
        print(f"{number:6d}  {name}")
    print(f"        paused: {dict(paused)}")
    print(
        f"{storm.kills:,} kills in {time.monotonic() - began:.0f} s: every row of {rows:,} done"
        " once by each of three jobs, all counts add up"
    )


if __name__ == "__main__":
    sys.exit(main())
