"""Metrics of runs for Prometheus: which there are, and what a view of a database says in them.

`METRICS` is the contract, and docs/reference/metrics.md says the same for people. All of it comes
from the ledger's counts and from Redis, nothing from this process: so a restart changes no counter,
and any one exporter tells the whole. Who reads views, and when: exporter.py.

Series are bounded: at most MOST_RUNS runs of each database are told, with labels whose values are
sets of ours (states, phases, outcomes, limits), SQLSTATEs or names in the settings; and at most
MOST_SCHEDULES schedules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import accumulate

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)

from backfill.model import RunState, SignalState, SlicePhase
from backfill.pg.samples import Sample
from backfill.pg.schedules import Outcome, Schedule
from backfill.watch.batches import EDGES
from backfill.watch.limits import Limiting
from backfill.watch.picture import Overview, Picture

#: So many runs of a database are told at most, live ones first, then the newest.
MOST_RUNS = 50
MOST_SCHEDULES = 50
#: A run that has ended is told for so long, so that the last scrapes see its end.
ENDED_SECONDS = 3600.0

#: What becomes of a key for good; the deferred ones are told apart, their number falls.
OUTCOMES = ("written", "unchanged", "skipped", "quarantined", "suppressed", "gone")
#: Phases in which batches are committed.
PHASES = (SlicePhase.WALK, SlicePhase.SWEEP)


@dataclass(frozen=True, slots=True)
class Told:
    """A metric: its name as Prometheus shows it, its type, its labels, what it means."""

    name: str
    type: str
    labels: tuple[str, ...]
    meaning: str

    def family(self) -> Metric:
        """It without samples."""
        kinds = {
            "counter": CounterMetricFamily,
            "gauge": GaugeMetricFamily,
            "histogram": HistogramMetricFamily,
        }
        family: Metric = kinds[self.type](self.name, self.meaning, labels=self.labels)
        return family


def _gauge(name: str, meaning: str, *labels: str) -> Told:
    return Told(f"backfill_{name}", "gauge", labels, meaning)


_DATABASE = ("database",)
_SCHEDULE = ("database", "job", "schedule")
_RUN = ("database", "job", "run")

METRICS: tuple[Told, ...] = (
    _gauge("build_info", "1; which version of backfill tells this.", "version"),
    _gauge("up", "1 where Redis or the ledger could be read, else 0.", *_DATABASE),
    _gauge("workers", "Workers that were seen in the last ten seconds.", *_DATABASE),
    _gauge("stopped", "1 while the red button is pressed (stop-all).", *_DATABASE),
    _gauge("live_runs", "Runs that may still write.", *_DATABASE),
    _gauge("omitted_runs", "Live runs that are not told, since there are too many.", *_DATABASE),
    _gauge("schedule_next_tick_timestamp_seconds", "When it ticks next.", *_SCHEDULE),
    _gauge("schedule_last_tick_timestamp_seconds", "When it last ticked.", *_SCHEDULE),
    _gauge("schedule_last_outcome", "1 for what became of its last tick.", *_SCHEDULE, "outcome"),
    _gauge("state", "1 for the state that the run is in.", *_RUN, "state"),
    _gauge("limited", "1 for what limits the run now.", *_RUN, "reason"),
    Told("backfill_rows_total", "counter", (*_RUN, "outcome"), "Keys by what became of them."),
    _gauge("total_rows", "Keys that are the run's, counted or estimated.", *_RUN),
    _gauge("progress_ratio", "Share of them that is settled, 0 to 1.", *_RUN),
    _gauge("rows_per_second", "Keys settled per second of late.", *_RUN),
    _gauge("eta_seconds", "Seconds to its end; none while that is not known.", *_RUN),
    _gauge("deferred_rows", "Keys that were not obtained yet.", *_RUN),
    _gauge("quarantine_rows", "Rows in quarantine, open or accepted.", *_RUN, "status"),
    _gauge("slices", "Slices by what they need next.", *_RUN, "phase"),
    _gauge("slices_held", "Slices that somebody works on.", *_RUN),
    _gauge("batch_rows", "Rows of the newest batches, on average.", *_RUN),
    Told("backfill_batches_total", "counter", (*_RUN, "phase"), "Committed batches."),
    Told(
        "backfill_batch_duration_seconds",
        "histogram",
        (*_RUN, "phase"),
        "From BEGIN to the answer to COMMIT.",
    ),
    Told(
        "backfill_batch_retries_total",
        "counter",
        (*_RUN, "sqlstate"),
        "Batches that were rolled back and tried again.",
    ),
    _gauge("speed_ratio", "Share of its full speed that signals let it have, 0 to 1.", *_RUN),
    _gauge("signal_value", "The last sample; none where it could not be read.", *_RUN, "signal"),
    _gauge("signal_stop_threshold", "From this value on the run stops.", *_RUN, "signal"),
    _gauge("signal_resume_threshold", "Beyond this value it goes on.", *_RUN, "signal"),
    _gauge("signal_state", "1 for what the sample means.", *_RUN, "signal", "state"),
    _gauge("may_work", "1 within the run's hours (window, start_at, until).", *_RUN),
    _gauge("until_missed", "1 when its hours are over for good and it is not done.", *_RUN),
    _gauge("until_at_risk", "1 when at its rate it comes to its end after until.", *_RUN),
    _gauge("started_timestamp_seconds", "When it began to work.", *_RUN),
    _gauge("finished_timestamp_seconds", "When it ended.", *_RUN),
    _gauge("progress_timestamp_seconds", "When it last came forward.", *_RUN),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What is known of a database at an instant.

    Attributes:
        pictures: of the runs that are told, at most MOST_RUNS.
        batches: by run; a run that Redis says nothing of is not there.
    """

    overview: Overview
    pictures: Sequence[Picture]
    batches: Mapping[str, Mapping[str, float]]


class Families:
    """All metrics, with the samples of one scrape."""

    def __init__(self) -> None:
        self._families = {told.name: told.family() for told in METRICS}

    def all(self) -> Iterable[Metric]:
        """In the order of METRICS."""
        return self._families.values()

    def version(self, version: str) -> None:
        """Say who tells."""
        self._set("build_info", [version], 1)

    def unread(self, database: str) -> None:
        """Say that nothing is known of a database."""
        self._set("up", [database], 0)

    def view(self, database: str, view: View) -> None:
        """Say what is known of a database."""
        overview = view.overview
        self._set("up", [database], 1)
        self._set("workers", [database], len(overview.workers))
        self._set("stopped", [database], overview.stopped is not None)
        self._set("live_runs", [database], len(overview.live))
        self._set("omitted_runs", [database], max(0, len(overview.live) - MOST_RUNS))
        for schedule in overview.schedules[:MOST_SCHEDULES]:
            self._schedule(database, schedule)
        for picture in view.pictures:
            run = picture.progress.run
            labels = [database, run.job, run.id]
            self._run(labels, picture)
            self._batches(labels, view.batches.get(run.id, {}))

    def _schedule(self, database: str, schedule: Schedule) -> None:
        labels = [database, schedule.job, schedule.name]
        self._instant("schedule_next_tick_timestamp_seconds", labels, schedule.next_at)
        self._instant("schedule_last_tick_timestamp_seconds", labels, schedule.last_tick)
        if schedule.last_outcome is not None:
            self._one_of("schedule_last_outcome", labels, Outcome, {schedule.last_outcome})

    def _run(self, labels: list[str], picture: Picture) -> None:
        progress, run = picture.progress, picture.progress.run
        # the ledger's, never the checkpoint's: Redis may come back with what it had an hour ago,
        # and a counter that falls looks like one that began anew
        counts = progress.committed or progress.counts
        self._one_of("state", labels, RunState, {run.state})
        self._one_of("limited", labels, Limiting, {str(one.kind) for one in progress.limits})
        for outcome in OUTCOMES:
            self._set("rows_total", [*labels, outcome], counts.as_dict()[outcome])
        self._set("total_rows", labels, progress.total_rows)
        self._set("progress_ratio", labels, progress.share)
        rate = progress.rows_per_second if run.run_state.is_working else 0.0
        self._set("rows_per_second", labels, rate)
        self._set("eta_seconds", labels, progress.eta_seconds)
        self._set("deferred_rows", labels, counts.deferred)
        accepted = sum(one.accepted for one in picture.set_aside)
        self._set("quarantine_rows", [*labels, "open"], picture.open_quarantine)
        self._set("quarantine_rows", [*labels, "accepted"], accepted)
        for phase in SlicePhase:
            self._set("slices", [*labels, phase], progress.by_phase.get(phase, 0))
        self._set("slices_held", labels, progress.held)
        sizes = [one.batch_rows for one in picture.working if one.batch_rows is not None]
        self._set("batch_rows", labels, sum(sizes) / len(sizes) if sizes else None)
        self._set("speed_ratio", labels, run.speed)
        for sample in progress.signals:
            self._signal([*labels, sample.name], sample)
        self._set("may_work", labels, progress.may_work)
        self._set("until_missed", labels, progress.is_past_until)
        self._set("until_at_risk", labels, progress.will_miss_until)
        self._instant("started_timestamp_seconds", labels, run.started_at)
        self._instant("finished_timestamp_seconds", labels, run.finished_at)
        # before its first slice, it began to work then
        moved = [at for at in (run.started_at, progress.progress_at) if at is not None]
        self._instant("progress_timestamp_seconds", labels, max(moved, default=None))

    def _signal(self, labels: list[str], sample: Sample) -> None:
        self._set("signal_value", labels, sample.value)
        self._set("signal_stop_threshold", labels, sample.stop)
        self._set("signal_resume_threshold", labels, sample.resume)
        self._one_of("signal_state", labels, SignalState, {str(sample.state)})

    def _batches(self, labels: list[str], batches: Mapping[str, float]) -> None:
        """Nothing where Redis says nothing: a counter of 0 would be one that began anew."""
        for phase in PHASES:
            count = batches.get(f"batches:{phase}")
            if count is None:
                continue
            self._set("batches_total", [*labels, phase], count)
            within = accumulate(batches.get(f"upto:{phase}:{edge:g}", 0.0) for edge in EDGES)
            buckets = [(f"{edge:g}", upto) for edge, upto in zip(EDGES, within, strict=True)]
            family = self._families["backfill_batch_duration_seconds"]
            family.add_metric(  # type: ignore[attr-defined]
                [*labels, phase], [*buckets, ("+Inf", count)], batches.get(f"seconds:{phase}", 0.0)
            )
        for name, count in batches.items():
            if name.startswith("failed:"):
                self._set("batch_retries_total", [*labels, name.removeprefix("failed:")], count)

    def _set(self, name: str, labels: Sequence[str], value: float | None) -> None:
        if value is not None:
            self._families[f"backfill_{name}"].add_metric(  # type: ignore[attr-defined]
                labels, float(value)
            )

    def _instant(self, name: str, labels: Sequence[str], at: datetime | None) -> None:
        self._set(name, labels, None if at is None else at.timestamp())

    def _one_of(
        self, name: str, labels: Sequence[str], all_of: type[StrEnum], now: set[str]
    ) -> None:
        for one in all_of:
            self._set(name, [*labels, one], str(one) in now)
