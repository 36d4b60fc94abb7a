"""A run's progress, for whoever shows it: from the checkpoint, else from the ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

from backfill.checkpoint import Checkpoint, Snapshot
from backfill.engine.pace import SHARE_OF_RATE
from backfill.hours import Hours
from backfill.model import Counts, PauseCause, RunState
from backfill.pg.blocking import unconfirmed_seconds
from backfill.pg.connect import READ_LIMITS, Connection, transaction
from backfill.pg.ledger import (
    EventRecord,
    Ledger,
    Pause,
    Run,
    Totals,
    events,
    get_run,
    pauses,
    totals,
    workers,
)
from backfill.pg.presence import has_process
from backfill.pg.samples import Sample, read_samples
from backfill.pg.slots import held_by_all
from backfill.rate import Rate
from backfill.watch.eta import ESTIMATED_SHARE, USUAL_SHARE, Eta, Turns, check_rate, estimate
from backfill.watch.limits import Limit, Limiting, Slots, in_words, limits
from backfill.watch.words import bounds_to_json, label, line, utc

#: A worker that was not seen for so long is not counted.
WORKER_SECONDS = 10.0
#: A run that holds slices and has committed nothing for so long is looked at more closely.
STILL_SECONDS = 3.0
#: A process's own run that stands still for so long may have lost it; a usual lease.
ABANDONED_SECONDS = 10.0
#: So many of a run's newest events are looked at.
EVENTS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What is known of a run now.

    Attributes:
        rows_per_second: keys settled per second, decayed; None when it is not known.
        held: slices that somebody works on.
        source: where the counts come from.
        usual_rate: keys settled per second since it began, of the hours in which it might work.
        at: when this was so.
        signals: the last samples of those that it obeys; none once it has ended.
        slots: those that it holds, beside the database's limit.
        committed: the counts as the ledger had them at that time, also where `counts` are the
            checkpoint's; None: another version's picture does not say.
        progress_at: when a slice last came forward; None: there is none yet, or as above.
        rates: keys per second as they were in each of the last seconds, oldest first.
        turns: when its pace was changed last, and its check began.
        unconfirmed_seconds: for so long a commit has waited for synchronous standbys; only looked
            at while the run stands still.
        is_abandoned: it is a process's own, which is gone.
    """

    run: Run
    counts: Counts
    by_phase: Mapping[str, int]
    held: int
    rows_per_second: float | None
    pauses: list[Pause]
    workers: int
    source: Literal["checkpoint", "ledger"]
    usual_rate: float | None = None
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    signals: Sequence[Sample] = ()
    slots: Slots | None = None
    committed: Counts | None = None
    progress_at: datetime | None = None
    rates: Sequence[float] = ()
    turns: Turns = field(default_factory=Turns)
    unconfirmed_seconds: float = 0.0
    is_abandoned: bool = False

    @property
    def label(self) -> str:
        """What the run fills: `flights.departs_at`, `flights → flight_times`."""
        return label(self.run)

    @property
    def total_rows(self) -> int | None:
        """Keys that are ours: counted when the run began, or estimated; never less than paged."""
        total = self.run.total_rows
        if self.run.run_state is RunState.SUCCEEDED:
            return self.counts.paged
        return None if total is None else max(total, self.counts.paged)

    @property
    def share(self) -> float | None:
        """0 to 1; None while no total is known. Short of 1 until the run has succeeded."""
        if self.run.run_state is RunState.SUCCEEDED:
            return 1.0
        if self.total_rows is None:
            return None
        if self.total_rows == 0:
            return 0.0
        return min(0.999, self.counts.settled / self.total_rows)

    @property
    def eta(self) -> Eta | None:
        """When it will be at its end, working only in its hours; None when that is not known.

        At the present rate; a run that nothing but its hours pauses has its usual one. No faster
        than it may work: a limit that was lowered counts at once.
        """
        return self._eta_within(_hours(self.run))

    def _eta_within(self, hours: Hours) -> Eta | None:
        """The same, had it these hours to go on."""
        run, is_working = self.run, self.run.run_state.is_working
        if self.total_rows is None or not (is_working or self._only_waits_for_hours):
            return None
        if self.is_abandoned:
            return None
        if run.run_state is RunState.RUNNING and self._is_past_estimate:
            return None
        placed = sum(self.by_phase.values())
        unchecked = 1 - self.by_phase.get("done", 0) / placed if placed else 1.0
        is_checking = run.run_state is RunState.VERIFYING
        is_at_its_end = is_checking or run.run_state is RunState.SWEEPING
        # few rows are settled while it sweeps and checks, which makes it no slower
        rate = self.usual_rate if is_at_its_end or not is_working else self.rows_per_second
        most = _most_rows_per_second(run)
        return estimate(
            self.at,
            hours,
            left_rows=max(0, self.total_rows - self.counts.settled),
            unchecked_rows=round(self.total_rows * unchecked),
            rate=None if rate is None else min(rate, most),
            rates=[min(one, most) for one in self.rates]
            if is_working and not is_at_its_end
            else (),
            seen_seconds=None
            if run.started_at is None
            else _hours(run).working_seconds(run.started_at, self.at),
            changed_seconds_ago=self._seconds_since(self.turns.changed_at),
            checked_per_second=check_rate(
                round(self.total_rows * (1 - unchecked)),
                self._seconds_since(self.turns.checking_since) if is_checking else None,
            ),
            further_share=(0.0 if is_working else USUAL_SHARE)
            + (0.0 if run.total_is_exact else ESTIMATED_SHARE),
        )

    def _seconds_since(self, then: datetime | None) -> float | None:
        return None if then is None else max(0.0, (self.at - then).total_seconds())

    @property
    def eta_seconds(self) -> float | None:
        """Seconds to the end, those included in which it may not work; None when not known."""
        return None if self.eta is None else self.eta.seconds

    @property
    def eta_at(self) -> datetime | None:
        """When it will be at its end, in UTC; None when not known."""
        return None if self.eta is None else self.eta.at

    @property
    def _only_waits_for_hours(self) -> bool:
        return {pause.cause for pause in self.pauses} == {PauseCause.WINDOW}

    @property
    def _is_past_estimate(self) -> bool:
        """True when there are more rows than the statistics had said: nobody knows how many."""
        total = self.run.total_rows
        return not self.run.total_is_exact and total is not None and self.counts.paged > total

    @property
    def limits(self) -> list[Limit]:
        """What limits the run now, one by one."""
        return limits(
            self.run,
            pauses=self.pauses,
            workers=self.workers,
            signals=self.signals,
            slots=self.slots,
            # the ledger knows an average alone, which a long pause has brought down
            rows_per_second=self.rows_per_second if self.source == "checkpoint" else None,
            unconfirmed_seconds=self.unconfirmed_seconds,
            is_abandoned=self.is_abandoned,
        )

    @property
    def unconfirmed(self) -> str:
        """The commit that waits for a standby, in words; empty where that limits nothing."""
        return in_words([one for one in self.limits if one.kind is Limiting.STANDBY])

    @property
    def limited_by(self) -> str:
        """The same in words."""
        return in_words(self.limits)

    @property
    def may_work(self) -> bool:
        """True within its hours: its window, after `start_at` and before `until`."""
        return _hours(self.run).shut(self.at) is None

    @property
    def is_past_until(self) -> bool:
        """True when it waits for hours that do not come any more, unless somebody changes them."""
        shut = _hours(self.run).shut(self.at)
        is_waiting = PauseCause.WINDOW in {pause.cause for pause in self.pauses}
        return is_waiting and shut is not None and shut.opens is None

    @property
    def will_miss_until(self) -> bool:
        """True when at its rate, known, it will not be at its end before its `until`."""
        hours = _hours(self.run)
        if hours.until is None or self.eta is not None:
            return False
        return self._eta_within(replace(hours, until=None)) is not None

    def line(self) -> str:
        """`flights.departs_at 41 % 137,800/336,776, 21,400 rows/s`."""
        return line(
            self.run,
            percent=None if self.share is None else int(self.share * 100),
            settled=self.counts.settled,
            total=self.total_rows,
            rows_per_second=self.rows_per_second,
        )

    def to_json(self) -> dict[str, Any]:
        """Stable: names are added, never changed. Times in UTC, ISO 8601; durations in seconds."""
        run, eta = self.run, self.eta
        return {
            "run": run.id,
            "job": run.job,
            "label": self.label,
            "state": run.state,
            "executor": run.executor,
            "requested_by": run.requested_by,
            "params": dict(run.params),
            "bounds": bounds_to_json(run),
            "options": dict(run.options),
            "total_rows": self.total_rows,
            "total_is_exact": run.total_is_exact,
            "share": self.share,
            "counts": self.counts.as_dict(),
            "slices": dict(self.by_phase),
            "held": self.held,
            "rows_per_second": self.rows_per_second,
            "eta_seconds": None if eta is None else eta.seconds,
            "eta_low_seconds": None if eta is None else eta.low_seconds,
            "eta_high_seconds": None if eta is None else eta.high_seconds,
            "eta_at": None if eta is None else utc(eta.at),
            "limited_by": self.limited_by,
            "speed": run.speed,
            "signals": [
                {
                    "name": sample.name,
                    "value": sample.value,
                    "unit": sample.unit,
                    "stop": sample.stop,
                    "resume": sample.resume,
                    "worse": sample.worse,
                    "state": str(sample.state),
                    "message": sample.message,
                    "at": utc(sample.at),
                }
                for sample in self.signals
            ],
            "pauses": [
                {
                    "cause": pause.cause,
                    "reason": pause.reason,
                    "ends": pause.ends,
                    "caused_by": pause.caused_by,
                    "since": utc(pause.since),
                }
                for pause in self.pauses
            ],
            "workers": self.workers,
            "failure": run.failure,
            "created_at": utc(run.created_at),
            "started_at": utc(run.started_at),
            "finished_at": utc(run.finished_at),
            "source": self.source,
        }


def read(
    conn: Connection,
    ledger: Ledger,
    run_id: str,
    *,
    checkpoint: Checkpoint | None,
    max_slots: int | None = None,
) -> Progress:
    """A run's progress now. No transaction may be open.

    Args:
        max_slots: the database's limit on slices held at once; None: it has none.

    Raises:
        UsageError: there is no such run.
    """
    snapshot = None if checkpoint is None else checkpoint.read(run_id)
    with transaction(conn, READ_LIMITS, reads_only=True):
        run = get_run(conn, ledger, run_id)
        return read_within(
            conn,
            ledger,
            run,
            newest=events(conn, ledger, run_id, limit=EVENTS),
            snapshot=snapshot,
            max_slots=max_slots,
        )


def read_within(
    conn: Connection,
    ledger: Ledger,
    run: Run,
    *,
    newest: Sequence[EventRecord],
    snapshot: Snapshot | None,
    max_slots: int | None = None,
    alive: int | None = None,
) -> Progress:
    """The same within the caller's transaction, with what the checkpoint said just before.

    Args:
        run: as it is in this transaction.
        newest: the last EVENTS of its events.
        alive: workers that were seen lately; None: not asked for yet.
    """
    total = totals(conn, ledger, run.id)
    if run.finished_at is not None:
        snapshot = None  # what has ended is read from the ledger alone
    if alive is None:
        alive = len(workers(conn, ledger, within_seconds=WORKER_SECONDS))
    seconds = _seconds(run)
    usual_rate = total.counts.settled / seconds if seconds else None
    is_abandoned = _is_abandoned(conn, ledger, run, total, newest)
    return Progress(
        run=run,
        counts=total.counts if snapshot is None else snapshot.counts,
        by_phase=total.by_phase,
        held=total.held,
        rows_per_second=usual_rate if snapshot is None else snapshot.rows_per_second,
        # a run has causes to be paused while it is (engine/lifecycle.py), and no others
        pauses=pauses(conn, ledger, run.id) if run.run_state is RunState.PAUSED else [],
        workers=alive,
        source="ledger" if snapshot is None else "checkpoint",
        usual_rate=usual_rate,
        signals=read_samples(conn, ledger, run.id),
        slots=None if max_slots is None else _slots(conn, ledger, run, total, max_slots),
        committed=total.counts,
        progress_at=total.progress_at,
        rates=() if snapshot is None else _rates(snapshot.recent),
        turns=Turns.among(newest),
        unconfirmed_seconds=unconfirmed_seconds(conn) if _stands(run, total, alive) else 0.0,
        is_abandoned=is_abandoned,
    )


def _ought_to_work(run: Run) -> bool:
    return run.run_state.is_live and run.run_state is not RunState.PAUSED


def _stands(run: Run, total: Totals, alive: int) -> bool:
    """True of a run that ought to work, and of which nothing was committed lately."""
    if not _ought_to_work(run):
        return False
    if not alive or total.progress_at is None:
        return True
    still = datetime.now(UTC) - total.progress_at
    return total.held > 0 and still.total_seconds() > STILL_SECONDS


def _is_abandoned(
    conn: Connection, ledger: Ledger, run: Run, total: Totals, newest: Sequence[EventRecord]
) -> bool:
    """True of a process's own run that stands still, and whose process is gone."""
    if run.executor != "local" or total.held or not _ought_to_work(run):
        return False
    # a process that has just begun, or goes on, need not have a session yet
    moved = max(filter(None, (total.progress_at, run.created_at, *(each.at for each in newest))))
    if (datetime.now(UTC) - moved).total_seconds() < ABANDONED_SECONDS:
        return False
    return not has_process(conn, ledger, run.id)


def _slots(conn: Connection, ledger: Ledger, run: Run, total: Totals, most: int) -> Slots:
    placed = sum(total.by_phase[phase] for phase in ("walk", "sweep", "verify"))
    return Slots(
        most=most,
        of_all=held_by_all(conn, ledger),
        held=total.held,
        is_more_to_do=placed > total.held or not run.frontier_done,
    )


def _rates(recent: Sequence[str]) -> list[float]:
    """Those of points as they are packed (picture.py), while it worked."""
    return [rate for rate in map(_rate, recent) if rate]


@lru_cache(maxsize=4096)  # a point is read with each picture of a minute
def _rate(point: str) -> float | None:
    found: float | None = json.loads(point).get("rows_per_second")
    return found


def _most_rows_per_second(run: Run) -> float:
    """What its rate and its signals leave it now; infinite where it has no rate."""
    rate = run.options.get("rate")
    per_second = Rate.parse(str(rate)).rows_per_second if rate else float("inf")
    return per_second * SHARE_OF_RATE * run.speed


def _seconds(run: Run) -> float | None:
    """Those since it began in which it might work."""
    if run.started_at is None:
        return None
    end = run.finished_at or datetime.now(UTC)
    return _hours(run).working_seconds(run.started_at, end) or None


def _hours(run: Run) -> Hours:
    # these three alone: a run of long ago may have had options that are out of bounds today
    return Hours.parse(**{name: run.options.get(name) for name in ("window", "start_at", "until")})
