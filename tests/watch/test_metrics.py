"""What the collector tells of runs, schedules and databases.

What a scrape costs: test_exporter.py. The counts of a real run by real workers:
tests/acceptance/test_metrics.py.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.registry import Collector
from psycopg.types.json import Jsonb

from backfill.engine import control
from backfill.job import Options
from backfill.model import Counts, RunState
from backfill.pg.ledger import Pause, Run
from backfill.watch import exporter
from backfill.watch.batches import EDGES
from backfill.watch.exporter import RunsCollector
from backfill.watch.metrics import ENDED_SECONDS, MOST_RUNS, Families, View
from backfill.watch.picture import Overview, Picture
from backfill.watch.progress import Progress
from tests.acceptance.crew import Crew
from tests.metrics import Scrape, collected, parsed
from tests.watch.test_limits import run as a_run

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def copy_run(crew: Crew, run: str, other: str, *, job: str, state: str = "queued") -> None:
    """Write a further run like one that is there."""
    crew.conn.execute(
        "INSERT INTO backfill.run (id, job, job_version, fingerprint, declaration, params, options,"
        " executor, requested_by, source, state) SELECT %s, %s, job_version, fingerprint,"
        " declaration, params, options, executor, requested_by, source, %s"
        " FROM backfill.run WHERE id = %s",
        [other, job, state, run],
    )


def told_of(progress: Progress, **batches: float) -> Scrape:
    """What is told of one run, without servers."""
    families = Families()
    families.view(
        "main",
        View(
            overview=Overview(database="main", at=progress.at, live=[progress.run.id]),
            pictures=[Picture(database="main", progress=progress)],
            batches={progress.run.id: batches},
        ),
    )
    registry = CollectorRegistry()
    registry.register(_Fixed(families))
    return parsed(generate_latest(registry).decode())


class _Fixed(Collector):
    def __init__(self, families: Families) -> None:
        self._families = families

    def collect(self) -> Any:
        return self._families.all()


def progress_of(run: Run, **other: Any) -> Progress:
    values: dict[str, Any] = {
        "counts": Counts(paged=100, written=100),
        "by_phase": {},
        "held": 1,
        "rows_per_second": 10.0,
        "pauses": [],
        "workers": 1,
        "source": "ledger",
        "at": NOW,
        **other,
    }
    return Progress(run=run, **values)


# ------------------------------------------------------------------------------------- the parts


def test_a_run_that_waits_for_a_worker_says_so_and_no_end_of_it(
    crew: Crew, collector: RunsCollector
) -> None:
    run = crew.enqueue("count")
    found = collected(collector)
    assert found.now("backfill_state", "state", run=run, job="count") == {"queued"}
    assert found.now("backfill_limited", "reason", run=run) == {"no worker"}
    assert found.value("backfill_workers", database="default") == 0
    assert found.value("backfill_live_runs", database="default") == 1
    assert found.value("backfill_rows_per_second", run=run) == 0
    for unknown in (
        "total_rows",
        "progress_ratio",
        "eta_seconds",
        "started_timestamp_seconds",
        "finished_timestamp_seconds",
    ):
        assert found.series(f"backfill_{unknown}") == {}
    assert found.series("backfill_batches_total") == {}


def test_the_end_is_told_once_it_is_known() -> None:
    run = a_run(total_rows=1_100)
    progress = progress_of(run)
    assert progress.eta_seconds == pytest.approx(100, abs=1)
    assert told_of(progress).value("backfill_eta_seconds") == progress.eta_seconds
    unknown = told_of(progress_of(run, rows_per_second=None))
    assert unknown.series("backfill_eta_seconds") == {}
    assert unknown.series("backfill_rows_per_second") == {}
    assert told_of(progress_of(a_run())).series("backfill_eta_seconds") == {}


@pytest.mark.parametrize(
    ("until", "pauses", "at_risk", "missed"),
    [
        (None, [], 0, 0),
        (NOW + timedelta(seconds=101), [], 0, 0),
        (NOW + timedelta(seconds=99), [], 1, 0),
        (NOW - timedelta(seconds=1), ["window"], 0, 1),
    ],
    ids=["without", "in time", "too late", "over"],
)
def test_a_run_that_misses_its_until_is_told_before_and_after(
    until: datetime | None, pauses: list[str], at_risk: int, missed: int
) -> None:
    told = None if until is None else until.isoformat()
    state = "paused" if pauses else "running"
    progress = progress_of(
        a_run(options=Options(until=told), total_rows=1_100, state=state),
        pauses=[
            Pause(run="count-1", cause=one, reason="", ends="", caused_by="", since=NOW)
            for one in pauses
        ],
        usual_rate=None,
    )
    found = told_of(progress)
    assert found.value("backfill_until_at_risk") == at_risk
    assert found.value("backfill_until_missed") == missed
    assert found.value("backfill_may_work") == (not missed)


def test_outside_its_window_a_run_may_not_work() -> None:
    run = a_run(options=Options(window="22:00-06:00 UTC"))
    assert told_of(progress_of(run)).value("backfill_may_work") == 0
    late = progress_of(run, at=NOW.replace(hour=23))
    assert told_of(late).value("backfill_may_work") == 1


def test_a_histogram_is_cumulative_and_ends_with_all() -> None:
    found = told_of(
        progress_of(a_run()),
        **{
            "batches:walk": 6,
            "seconds:walk": 41.5,
            "upto:walk:0.005": 1,
            "upto:walk:0.05": 3,
            "upto:walk:1": 1,  # and one beyond the last edge
            "failed:40P01": 2,
            "failed:lost": 1,
        },
    )
    buckets = found.by("backfill_batch_duration_seconds_bucket", "le", phase="walk")
    assert len(buckets) == len(EDGES) + 1
    by_edge = {float(le): count for le, count in buckets.items()}
    assert [by_edge[edge] for edge in (0.005, 0.035, 0.05, 0.5, 1.0, 30.0)] == [1, 1, 4, 4, 5, 5]
    assert buckets["+Inf"] == 6
    assert found.value("backfill_batch_duration_seconds_count", phase="walk") == 6
    assert found.value("backfill_batch_duration_seconds_sum", phase="walk") == 41.5
    assert found.by("backfill_batches_total", "phase") == {"walk": 6}
    assert found.by("backfill_batch_retries_total", "sqlstate") == {"40P01": 2, "lost": 1}


def test_signals_are_told_with_their_thresholds_and_what_they_mean(
    crew: Crew, collector: RunsCollector
) -> None:
    run = crew.enqueue("count")
    crew.conn.execute(
        "INSERT INTO backfill.signal (run, name, value, unit, stop, resume, worse, state)"
        " VALUES (%(run)s, 'lag', 12.5, 's', 30, 10, 'above', 'slow'),"
        " (%(run)s, 'gone', NULL, '', 5, 1, 'above', 'unreadable')",
        {"run": run},
    )
    crew.conn.execute("UPDATE backfill.run SET speed = 0.25")
    found = collected(collector)
    assert found.by("backfill_signal_value", "signal", run=run) == {"lag": 12.5}
    assert found.by("backfill_signal_stop_threshold", "signal") == {"lag": 30, "gone": 5}
    assert found.by("backfill_signal_resume_threshold", "signal") == {"lag": 10, "gone": 1}
    assert found.now("backfill_signal_state", "state", signal="lag") == {"slow"}
    assert found.now("backfill_signal_state", "state", signal="gone") == {"unreadable"}
    assert found.value("backfill_speed_ratio", run=run) == 0.25


def test_the_red_button_and_schedules_are_told(crew: Crew, collector: RunsCollector) -> None:
    run = crew.enqueue("count")
    control.stop_all(crew.desk.conn, crew.desk.ledger, by="ada", reason="lunch")
    crew.conn.execute(
        "INSERT INTO backfill.schedule (name, job, params, options, cron, zone, if_running,"
        " if_missed, next_at, last_tick, last_outcome, created_by) VALUES ('nightly', 'count',"
        " %(none)s, %(none)s, '0 22 * * *', 'UTC', 'skip', 'skip', '2030-01-02 22:00Z',"
        " '2030-01-01 22:00Z', 'missed', 'ada')",
        {"none": Jsonb({})},
    )
    found = collected(collector)
    assert found.value("backfill_stopped", database="default") == 1
    assert found.now("backfill_limited", "reason", run=run) == {"stop-all"}
    nightly = {"schedule": "nightly", "job": "count"}
    next_at = found.value("backfill_schedule_next_tick_timestamp_seconds", **nightly)
    assert next_at == datetime(2030, 1, 2, 22, tzinfo=UTC).timestamp()
    last = found.value("backfill_schedule_last_tick_timestamp_seconds", **nightly)
    assert last == datetime(2030, 1, 1, 22, tzinfo=UTC).timestamp()
    assert found.now("backfill_schedule_last_outcome", "outcome", **nightly) == {"missed"}


def test_hostile_names_are_labels_like_others(crew: Crew, collector: RunsCollector) -> None:
    run = crew.enqueue("count")
    name = 'evil"} 1\nbackfill_up{database="no\\pe"} 0 # <b>\u2028ü'
    copy_run(crew, run, name, job=name)
    crew.conn.execute(
        "INSERT INTO backfill.signal (run, name, value, unit, stop, resume, worse, state)"
        " VALUES (%(name)s, %(name)s, 1, '', 5, 1, 'above', 'ok')",
        {"name": name},
    )
    found = collected(collector)
    assert found.now("backfill_state", "state", run=name, job=name) == {"queued"}
    assert found.value("backfill_signal_value", run=name, signal=name) == 1
    assert found.by("backfill_up", "database") == {"default": 1}


# ------------------------------------------------------------------------------------- its bounds


def test_no_more_than_so_many_runs_are_told(crew: Crew, collector: RunsCollector) -> None:
    run = crew.enqueue("count")
    for number in range(MOST_RUNS + 9):
        copy_run(crew, run, f"more-{number:03}", job=f"more_{number}")
    found = collected(collector)
    told = set(found.by("backfill_speed_ratio", "run"))
    assert len(told) == MOST_RUNS
    assert f"more-{MOST_RUNS + 8:03}" in told  # the newest
    assert run not in told
    assert found.value("backfill_live_runs") == MOST_RUNS + 10
    assert found.value("backfill_omitted_runs") == 10


def test_a_run_that_has_ended_is_told_for_an_hour(crew: Crew, collector: RunsCollector) -> None:
    run = crew.enqueue("count")
    for name, age in (("late", ENDED_SECONDS - 60), ("early", ENDED_SECONDS + 60)):
        copy_run(crew, run, name, job=name, state="failed")
        crew.conn.execute(
            "UPDATE backfill.run SET finished_at = clock_timestamp() - make_interval(secs => %s)"
            " WHERE id = %s",
            [age, name],
        )
    found = collected(collector)
    assert set(found.by("backfill_speed_ratio", "run")) == {run, "late"}
    assert found.now("backfill_state", "state", run="late") == {"failed"}
    assert found.now("backfill_limited", "reason", run="late") == set()


def test_a_run_is_told_in_every_scrape_around_its_end(crew: Crew, collector: RunsCollector) -> None:
    run = crew.enqueue("count")
    assert collected(collector).now("backfill_state", "state", run=run) == {"queued"}
    crew.conn.execute("UPDATE backfill.run SET state = 'cancelled', finished_at = now()")
    # the gallery remembers what runs there are, and each of them, for a second: not the same one
    gallery = collector._databases[0]._open()
    gallery._kept.pop("overview")
    kept = gallery._kept["picture", run]
    gallery._kept["picture", run] = (kept[0] + 60, kept[1])
    seen: list[set[str]] = []

    def is_over() -> bool:
        seen.append(collected(collector).now("backfill_state", "state", run=run))
        return seen[-1] != {"queued"}

    crew.wait(is_over, "its end is seen")
    assert seen[-1] == {"cancelled"}


def test_what_another_version_has_published_is_told_as_far_as_it_goes() -> None:
    progress = progress_of(a_run())
    packed = Picture(database="main", progress=progress).pack()
    older = Picture.unpack(packed.replace('"committed"', '"x"').replace('"progress_at"', '"y"'))
    assert older is not None
    assert older.progress.committed is None
    found = told_of(replace(older.progress, run=progress.run))
    assert found.value("backfill_rows_total", outcome="written") == 100
    assert found.now("backfill_state", "state") == {RunState.RUNNING}


def test_they_are_added_to_the_library_s_own_registry_once(crew: Crew) -> None:
    run = crew.enqueue("count")
    collector = exporter.register(crew.project)
    try:
        with pytest.raises(ValueError, match="backfill"):
            exporter.register(crew.project)
        found = parsed(generate_latest().decode())
        assert found.now("backfill_state", "state", run=run) == {"queued"}
        assert "process_cpu_seconds_total" in found.names  # and what was there stays
    finally:
        REGISTRY.unregister(collector)
        collector.close()
