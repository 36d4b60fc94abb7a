"""Where a batch's time goes: one worker in this process, each statement and each step timed."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import psycopg

from backfill.clock import SystemClock
from backfill.engine.enqueue import create_run, person
from backfill.engine.pace import LocalLimiter
from backfill.engine.work import work
from backfill.job import Options
from benchmarks.bed import Bed
from benchmarks.speed import plain

#: A statement's beginning, and what it does in a batch.
STATEMENTS = (
    ("WITH _scanned", "choose and lock the page"),
    ("UPDATE public.people", "write the rows"),
    ("COMMIT", "commit (the disk's flush)"),
    ("BEGIN", "begin, with its settings"),
    ("SELECT ARRAY", "find the slices' bounds"),
    ("SELECT count(*) FROM public.people", "count for the completion check, and the total"),
)


def measure(bed: Bed, *, rows: int) -> None:
    """Print microseconds a row by step, for both modes, beside the plain statement."""
    for job in ("slug_sql", "slug_python"):
        bed.table(rows)
        seconds, spent = _profiled(bed, job)
        bed.check_slugs(rows)
        print(f"{job}, one worker in this process: {rows / seconds:,.0f} rows/s")
        for what, value in sorted(spent.items(), key=lambda item: -item[1]):
            print(f"  {value / rows * 1e6:6.2f} us a row  {what}")
        rest = seconds - sum(spent.values())
        print(f"  {rest / rows * 1e6:6.2f} us a row  Python: rows, the transform, arrays")
    bed.table(rows)
    print(f"  {plain(bed) / rows * 1e6:6.2f} us a row  one plain UPDATE, for comparison")


def _profiled(bed: Bed, job: str) -> tuple[float, dict[str, float]]:
    spent: defaultdict[str, float] = defaultdict(float)
    execute = psycopg.Connection.execute

    def timed(conn: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return execute(conn, query, *args, **kwargs)
        finally:
            text = query if isinstance(query, str) else query.as_string(None)
            names = (name for start, name in STATEMENTS if text.startswith(start))
            spent[next(names, "the ledger's rows, and all else")] += time.perf_counter() - started

    desk = bed.project.open()
    clock = SystemClock()
    declaration = bed.project.declaration(job)
    run, _ = create_run(
        desk.conn,
        desk.ledger,
        declaration,
        params={},
        options=Options(concurrency=1),
        executor="local",
        by=person(),
    )
    bench = bed.project.bench(desk, run, declaration, clock=clock, limiter=LocalLimiter(clock))
    psycopg.Connection.execute = timed  # type: ignore[assignment,method-assign]  # for this run only
    try:
        started = time.perf_counter()
        work(bench, slot=0)
        return time.perf_counter() - started, spent
    finally:
        psycopg.Connection.execute = execute  # type: ignore[method-assign]  # as it was
        bench.conn.close()
        desk.conn.close()
