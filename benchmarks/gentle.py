"""Gentleness: what an application on the same table notices of the work beside it.

The same transactions of pgbench, first alone, then beside one plain UPDATE, a naive loop, a run at
full speed and a paced one; then the curve: a run's speed against the application's p99 by batch
time and duty. Each measurement has its table rebuilt, and its results checked: every slug is right,
and no update of the application is lost. docs/gentleness.md says what the columns mean.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psycopg

from backfill.engine import lifecycle
from backfill.engine.enqueue import person
from backfill.entry import enqueue_in
from backfill.job import Options
from benchmarks import gentle_page
from benchmarks.application import application, latencies
from benchmarks.bed import PLAIN, Bed, running_workers
from benchmarks.gentle_page import Measured, Point

BATCH_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1)
DUTIES = (1.0, 0.5, 0.25)
#: Rows of one step of the naive loop.
NAIVE_ROWS = 5_000
#: A run alone ends long before.
ALONE_SECONDS = 120.0
#: A load above this before anything has begun is somebody else's.
BUSY = 0.7
#: The server's and the ledger's states are asked this often; each time costs 1 ms.
POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Work:
    """What was done beside the application, and from when to when (seconds since 1970).

    Attributes:
        slowed: how often signals slowed or paused it.
    """

    since: float
    until: float
    rows: int
    slowed: int = 0

    @property
    def rows_per_second(self) -> float:
        return self.rows / max(self.until - self.since, POLL_SECONDS)


#: Works until all is done, or until the given instant if that comes first.
Way = Callable[[Bed, float], Work]


def nothing(_: Bed, until: float) -> Work:
    """The application alone."""
    since = time.time()
    time.sleep(max(0.0, until - since))
    return Work(since, until, 0)


def plain_update(bed: Bed, _: float) -> Work:
    """One UPDATE of the whole table; it has no end before its end."""
    since = time.time()
    rows = bed.conn.execute(PLAIN).rowcount
    return Work(since, time.time(), rows)


def naive_loop(bed: Bed, until: float) -> Work:
    """What people write: find some rows that lack it, update those, and again, without a pause."""
    since, rows = time.time(), 0
    with psycopg.connect(bed.url, application_name="naive loop") as conn:
        while time.time() < until:
            found = conn.execute(
                "SELECT id FROM people WHERE slug IS NULL LIMIT %s", [NAIVE_ROWS]
            ).fetchall()
            if not found:
                break
            rows += conn.execute(
                f"{PLAIN} WHERE id = ANY(%s)".encode(), [[key for (key,) in found]]
            ).rowcount
            conn.commit()
    return Work(since, time.time(), rows)


def run_with(options: Options) -> Way:
    """A run of ours over Celery, from the first batch that is seen to the end of its slices."""

    def way(bed: Bed, until: float) -> Work:
        declaration = bed.project.declaration("slug_sql")
        run = enqueue_in(bed.project, declaration, params={}, options=options, by=person()).run.id
        since, before = time.time(), 0
        while True:
            state, rows = _progress(bed, run)
            now = time.time()
            if not before:
                since, before = now, rows
            if state not in {"queued", "running", "paused"} or now >= until:
                break
            time.sleep(POLL_SECONDS)
        _end(bed, run)
        return Work(since, now, rows - before, _slowed(bed, run))

    return way


def _slowed(bed: Bed, run: str) -> int:
    row = bed.conn.execute(
        "SELECT count(*) FROM backfill.event WHERE run = %s AND ("
        " name = 'run.slowed' AND (detail ->> 'speed')::float8 < 1"
        " OR name = 'run.paused' AND detail ->> 'cause' = 'signal')",
        [run],
    ).fetchone()
    assert row is not None
    return int(row[0])


def _progress(bed: Bed, run: str) -> tuple[str, int]:
    row = bed.conn.execute(
        "SELECT state, (SELECT coalesce(sum(written), 0)::bigint FROM backfill.slice"
        " WHERE run = %(run)s), (SELECT string_agg(reason, '; ') FROM backfill.pause"
        " WHERE run = %(run)s AND cause <> 'signal') FROM backfill.run WHERE id = %(run)s",
        {"run": run},
    ).fetchone()
    if row is None or row[2] is not None or row[0] in {"failed", "cancelled"}:
        raise SystemExit(f"{run} cannot be measured: {row}")
    return row[0], row[1]


def _end(bed: Bed, run: str) -> None:
    """Let the run end if that is near, or cancel it: no batch of it is under way afterwards."""
    desk = bed.project.open()
    try:
        while (state := _progress(bed, run)[0]) in {"sweeping", "verifying"}:
            time.sleep(POLL_SECONDS)
        if state != "succeeded":
            lifecycle.cancel(desk.conn, desk.ledger, run, reason="measured", by=person())
    finally:
        desk.conn.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is measured: see `python -m benchmarks --help`."""

    rows: int
    rounds: int
    seconds: float
    rate: int
    slots: Sequence[int]
    has_curve: bool
    publish: bool


def measure(bed: Bed, plan: Plan) -> None:
    """Print the tables and what they say of the goal; replace those of the docs if asked to."""
    if (others := os.getloadavg()[0]) > BUSY:
        print(f"others work on this machine (load {others:.1f}): the numbers mean little")
    page = gentle_page.Page(
        about=f"{os.cpu_count()} cores, PostgreSQL {_version(bed)}, {plan.rows:,} rows,"
        f" {plan.seconds:g} s each",
        rate=plan.rate,
    )
    with running_workers(bed, max(2, *plan.slots)):
        page.full_speed = statistics.median(_alone(bed, plan.rows) for _ in range(plan.rounds))
        print(f"{page.about}\na run alone, at full speed: {page.full_speed:,.0f} rows/s")
        for load, rate in ((page.arriving, plan.rate), (page.full_tilt, None)):
            print(f"\n{gentle_page.HEAD}")
            for name, way in _ways():
                load.append(_beside(bed, plan, name, way, rate))
                print(gentle_page.line(load[-1], page.full_speed), flush=True)
        if plan.has_curve:
            _curve(bed, plan, page)
    print(f"\n{page.verdict()}")
    if plan.publish:
        page.publish()


def _ways() -> list[tuple[str, Way]]:
    return [
        ("nothing", nothing),
        ("one plain `UPDATE`", plain_update),
        (f"a naive loop, {NAIVE_ROWS:,} rows a step", naive_loop),
        ("a run at full speed", run_with(Options())),
        (gentle_page.GENTLE_NAME, run_with(Options().gentle())),
    ]


def _curve(bed: Bed, plan: Plan, page: gentle_page.Page) -> None:
    print(f"\n{gentle_page.CURVE_HEAD}")
    page.alone = _beside(bed, plan, "nothing", nothing, plan.rate)
    for slots in plan.slots:
        for duty in DUTIES:
            for seconds in BATCH_SECONDS:
                options = Options(concurrency=slots, target_batch_seconds=seconds, duty=duty)
                measured = _beside(bed, plan, "", run_with(options), plan.rate)
                page.curve.append(
                    Point(slots=slots, duty=duty, batch_seconds=seconds, measured=measured)
                )
                print(page.curve_line(page.curve[-1]), flush=True)


def _alone(bed: Bed, rows: int) -> float:
    bed.table(rows)
    work = run_with(Options())(bed, time.time() + ALONE_SECONDS)
    bed.check_slugs(rows)
    return work.rows_per_second


def _beside(bed: Bed, plan: Plan, name: str, way: Way, rate: int | None) -> Measured:
    """The application beside one way; it counts only while both are at work."""
    bed.table(plan.rows)
    with application(bed, rows=plan.rows, rate=rate, seconds=plan.seconds) as app:
        work = way(bed, app.ends_at)
        transactions, waits = app.finish()
    _check(bed, updates=len(transactions), slugs=None if way is nothing else work.rows)
    until = max(work.since + POLL_SECONDS, min(work.until, app.ends_at))
    return Measured(
        name=name,
        latencies=latencies(transactions, work.since, until),
        waits_ms=waits,
        rows_per_second=None if way is nothing else work.rows_per_second,
        slowed=work.slowed,
    )


def _check(bed: Bed, *, updates: int, slugs: int | None) -> None:
    row = bed.conn.execute(
        "SELECT sum(n)::bigint, count(slug), count(*) FILTER"
        " (WHERE slug <> lower(regexp_replace(name, '[^A-Za-z0-9]+', '-', 'g'))) FROM people"
    ).fetchone()
    assert row is not None
    if row[0] != updates or row[2] or (slugs is not None and row[1] < slugs):
        raise SystemExit(
            f"wrong result: {updates} updates of the application and at least {slugs} slugs"
            f" are meant; {row[0]} and {row[1]} are there, of which {row[2]} are wrong"
        )


def _version(bed: Bed) -> str:
    return str(bed.conn.info.parameter_status("server_version")).split()[0]
