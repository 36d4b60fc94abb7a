"""The rate: four worker processes keep one limit together, with Redis and while it is away.

Nothing is sampled: the server remembers when each transaction committed (`track_commit_timestamp`),
so that rows by instant are known to the microsecond, and every ten seconds can be looked at.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from backfill.job import Options
from benchmarks.bed import Bed, bed, running_workers, wait_for

WORKERS = 4
#: The limit holds over any so many seconds.
SPAN_SECONDS = 10.0
#: At least this share of the limit is reached on the whole.
GOAL_SHARE = 0.95
#: When Redis stops and comes back, in seconds after the first rows.
AWAY_FROM_SECONDS, AWAY_UNTIL_SECONDS = 5.0, 12.0
#: A task ends after 5 s, and the next one needs Redis; so long the slots go on for certain.
SHARED_SECONDS = 2.0

#: Commits: seconds since the first one, ascending, and the rows of each.
Commits = Sequence[tuple[float, int]]


def most_in(commits: Commits, seconds: float) -> int:
    """The most rows that committed within any span of so many seconds."""
    inside: deque[tuple[float, int]] = deque()
    rows = most = 0
    for at, count in commits:
        inside.append((at, count))
        rows += count
        while inside[0][0] <= at - seconds:
            rows -= inside.popleft()[1]
        most = max(most, rows)
    return most


def speed(commits: Commits) -> float:
    """Rows per second from the first commit, whose rows came before, to the last; 0 of one."""
    if len(commits) < 2:
        return 0.0
    return sum(count for _, count in commits[1:]) / (commits[-1][0] - commits[0][0])


def measure(*, rate: int, seconds: float) -> None:
    """Print what was reached as ratios to the limit, with Redis and with an outage of it."""
    # a server of its own: remembering the commits' instants costs the other benchmarks time
    with bed({"track_commit_timestamp": "on"}) as made, running_workers(made, WORKERS):
        rows = round(rate * seconds)
        print(f"\nrate={rate}/s, {WORKERS} workers, {rows:,} rows; ratios to the limit")
        commits = _run(made, rows, rate, outage=False)
        reached = speed(commits) / rate
        print(f"  any {SPAN_SECONDS:g} s: {_most(commits, rate)}")
        print(f"  on the whole: {reached:.3f} (goal {GOAL_SHARE}: {_met(reached >= GOAL_SHARE)})")
        commits = _run(made, rows, rate, outage=True)
        shared = [c for c in commits if 0 <= c[0] - AWAY_FROM_SECONDS <= SHARED_SECONDS]
        print(f"Redis away from {AWAY_FROM_SECONDS:g} s to {AWAY_UNTIL_SECONDS:g} s")
        print(f"  any {SPAN_SECONDS:g} s: {_most(commits, rate)}")
        print(f"  in the first {SHARED_SECONDS:g} s without it: {speed(shared) / rate:.3f}")


def _most(commits: Commits, rate: int) -> str:
    most = most_in(commits, SPAN_SECONDS) / (rate * SPAN_SECONDS)
    return f"at most {most:.3f} (goal 1: {_met(most <= 1)})"


def _run(made: Bed, rows: int, rate: int, *, outage: bool) -> Commits:
    made.table(rows)
    options = Options(rate=f"{rate}/s", concurrency=WORKERS)
    run = made.enqueue("slug_sql", options)

    def written() -> int:
        row = made.conn.execute(
            "SELECT coalesce(sum(written), 0)::bigint FROM backfill.slice WHERE run = %s", [run]
        ).fetchone()
        return row[0] if row else 0

    def state() -> str:
        return made.state(run, may_pause=True)

    if outage:
        wait_for(written, 60)
        time.sleep(AWAY_FROM_SECONDS)
        made.redis.stop()
        time.sleep(AWAY_UNTIL_SECONDS - AWAY_FROM_SECONDS)
        made.redis.start()
    wait_for(lambda: state() == "succeeded", 60 + 4 * rows / rate)
    made.check_slugs(rows)
    return _commits(made)


def _commits(made: Bed) -> Commits:
    """By the transaction that wrote each row; the instants are the server's."""
    found = made.conn.execute(
        "SELECT extract(epoch FROM pg_xact_commit_timestamp(writer))::float8, rows FROM ("
        " SELECT xmin AS writer, count(*) AS rows FROM people GROUP BY xmin) AS _ ORDER BY 1"
    ).fetchall()
    return [(at - found[0][0], rows) for at, rows in found]


def _met(is_met: bool) -> str:
    return "met" if is_met else "not met"
