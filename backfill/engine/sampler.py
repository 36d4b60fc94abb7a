"""The sampler: one process measures for all, judges, and says in the ledger what follows.

It is a round under a lease in the ledger. What follows from a run's samples is one transaction
under that run's lock: the samples, its speed (run.speed), the cause `signal` of a pause, and the
events. Workers see the pause at their next batch, and the speed when they next look.

- The lease only saves work. Two samplers at once do no harm: they write a run one after the other,
  each from what the other wrote; and whoever began to measure before the other wrote writes
  nothing, so that no old value is put over a newer one, and speed goes down and up once for one
  measurement.
- Dying anywhere costs one lease: a run's transaction is there wholly or not at all, and the next
  sampler goes on from the ledger.
- A run whose row somebody holds is left out after LIMITS; it does not hold up the others. When
  nobody samples at all, workers stop by themselves (fail closed): pause `signal`, which is lifted
  here as any other once all is well.
- Only the cause `signal` is touched here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

import psycopg
import structlog

from backfill.engine import lifecycle
from backfill.engine.judge import Verdict, judge
from backfill.errors import UsageError
from backfill.events import Event
from backfill.model import PauseCause, SignalState
from backfill.pg import samples
from backfill.pg.connect import Connection, Limits, transaction
from backfill.pg.ledger import Ledger, Run, add_event, get_run, live_runs
from backfill.pg.samples import Sample
from backfill.signals import Reading, SignalSpec

log = structlog.get_logger("backfill")

#: Of our own transactions. A run's row is held for milliseconds, except by somebody who cancels it.
LIMITS = Limits(lock_timeout_seconds=0.5, statement_timeout_seconds=5.0)
#: What is said where no signal complains.
ALL_WELL = "all signals are well"


class Reader(Protocol):
    """Reads signals, as pg/signals.py does."""

    def read(
        self, conn: Connection, ledger: Ledger, runs: Sequence[Run]
    ) -> Mapping[str, list[Reading]]:
        """The readings of each of these runs, by its id."""


class Sampler:
    """The sampler of one process for one database.

    Args:
        specs: the database's signals.
        by: this process's name, unlike all others'.
        lease_seconds: two or three periods.
    """

    def __init__(
        self, reader: Reader, specs: Mapping[str, SignalSpec], *, by: str, lease_seconds: float
    ) -> None:
        self._reader = reader
        self._specs = specs
        self._by = by
        self._lease_seconds = lease_seconds

    def round(self, conn: Connection, ledger: Ledger) -> bool:
        """Sample once, if the lease is ours or free; True if it is.

        Without a live run nothing is measured.

        Raises:
            psycopg.Error: the database is away, or `conn` is dead; the next round tries again.
        """
        with transaction(conn, LIMITS):
            began = samples.take_lease(conn, ledger, by=self._by, seconds=self._lease_seconds)
            runs = [] if began is None else live_runs(conn, ledger)
        if began is None:
            return False
        readings = self._reader.read(conn, ledger, runs) if runs else {}
        for run in runs:
            try:
                self._record(conn, ledger, run.id, readings.get(run.id, []), began)
            except (
                psycopg.errors.LockNotAvailable,
                psycopg.errors.QueryCanceled,
                psycopg.errors.DeadlockDetected,
                UsageError,  # somebody deleted it
            ) as error:
                log.warning(Event.SAMPLE_FAILED, run=run.id, error=type(error).__name__)
        return True

    def resign(self, conn: Connection, ledger: Ledger) -> None:
        """Give the lease back, so that another process samples at once."""
        with transaction(conn, LIMITS):
            samples.drop_lease(conn, ledger, by=self._by)

    def _record(
        self,
        conn: Connection,
        ledger: Ledger,
        run_id: str,
        readings: Sequence[Reading],
        began: datetime,
    ) -> None:
        """Write what follows for one run: one transaction, under the run's lock."""
        with transaction(conn, LIMITS):
            run = get_run(conn, ledger, run_id, lock=True)
            before = samples.read_samples(conn, ledger, run_id)
            if not run.run_state.is_live or any(_is_newer(sample, began) for sample in before):
                return
            pause_ends = samples.signal_pause_ends(conn, ledger, run_id)
            verdict = judge(
                self._specs,
                readings,
                before,
                speed=run.speed,
                was_stopped=pause_ends is not None,
            )
            samples.write_samples(conn, ledger, run_id, verdict.samples)
            self._tell_off(conn, ledger, run_id, verdict, before)
            self._set_speed(conn, ledger, run, verdict)
            self._pause_or_lift(conn, ledger, run, verdict, pause_ends)

    def _tell_off(
        self,
        conn: Connection,
        ledger: Ledger,
        run: str,
        verdict: Verdict,
        before: Sequence[Sample],
    ) -> None:
        known = {sample.name for sample in before}
        for sample in verdict.samples:
            if sample.state is SignalState.OFF and sample.name not in known:
                add_event(
                    conn,
                    ledger,
                    Event.SIGNAL_OFF,
                    run=run,
                    caused_by=self._by,
                    signal=sample.name,
                    reason=sample.message,
                )

    def _set_speed(self, conn: Connection, ledger: Ledger, run: Run, verdict: Verdict) -> None:
        if verdict.speed == run.speed:
            return
        samples.set_speed(conn, ledger, run.id, verdict.speed)
        if 1.0 in {verdict.speed, run.speed}:  # not for each step between
            add_event(
                conn,
                ledger,
                Event.RUN_SLOWED,
                run=run.id,
                caused_by=self._by,
                speed=verdict.speed,
                reasons=list(verdict.reasons) or [ALL_WELL],
            )

    def _pause_or_lift(
        self,
        conn: Connection,
        ledger: Ledger,
        run: Run,
        verdict: Verdict,
        pause_ends: str | None,
    ) -> None:
        """`pause_ends`: what ends the pause that is there; None: there is none for signals."""
        by, reason = f"signals, sampled by {self._by}", "; ".join(verdict.stops)
        if not verdict.stops:
            if pause_ends is not None:
                lifecycle.take_causes(conn, ledger, run, [PauseCause.SIGNAL], by=by)
        elif pause_ends is None:
            lifecycle.add_cause(
                conn, ledger, run, PauseCause.SIGNAL, reason=reason, ends=verdict.ends, by=by
            )
        elif pause_ends != verdict.ends:  # others stop it now
            samples.tell_signal_pause(conn, ledger, run.id, reason=reason, ends=verdict.ends, by=by)


def _is_newer(sample: Sample, began: datetime) -> bool:
    return sample.at is not None and sample.at >= began
