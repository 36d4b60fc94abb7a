"""Values that every layer speaks of: states, causes, counts, keys, runs.

The life of a run (invariant I7: every arrow is recorded in the ledger's events):

    queued ─→ running ─→ sweeping ─→ verifying ─→ succeeded
                ↑ ↓  ↖──────┴──────────┘ ↓
               paused          (a slice has more to do, at most three times)
    and from every live state ─→ failed (resumable by `retry`) or ─→ cancelled

`TRANSITIONS` is the one table of arrows; a trigger in the ledger holds the same one
(pg/schema/001_ledger.sql), and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum

#: One key of the source: each column's value as PostgreSQL writes it (I6), never a Python value.
Key = tuple[str, ...]


class RunState(StrEnum):
    """Where a run is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SWEEPING = "sweeping"
    VERIFYING = "verifying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_live(self) -> bool:
        """True while the run may still write."""
        return self in LIVE

    @property
    def is_working(self) -> bool:
        """True while slices may be taken and batches may commit."""
        return self in WORKING


WORKING = frozenset({RunState.RUNNING, RunState.SWEEPING, RunState.VERIFYING})
LIVE = WORKING | {RunState.QUEUED, RunState.PAUSED}

TRANSITIONS: Mapping[RunState, frozenset[RunState]] = {
    # the horizon has been read and older writers have ended; or somebody stops it before that
    RunState.QUEUED: frozenset(
        {RunState.RUNNING, RunState.PAUSED, RunState.FAILED, RunState.CANCELLED}
    ),
    # every slice is walked
    RunState.RUNNING: frozenset(
        {RunState.SWEEPING, RunState.PAUSED, RunState.FAILED, RunState.CANCELLED}
    ),
    # the last cause is lifted: back to the start of the work, which finds what is left
    RunState.PAUSED: frozenset(
        {RunState.QUEUED, RunState.RUNNING, RunState.FAILED, RunState.CANCELLED}
    ),
    # nothing is deferred any more; or slices have to be walked again
    RunState.SWEEPING: frozenset(
        {
            RunState.VERIFYING,
            RunState.RUNNING,
            RunState.PAUSED,
            RunState.FAILED,
            RunState.CANCELLED,
        }
    ),
    # the completion check agrees; or a slice has more to do than it says
    RunState.VERIFYING: frozenset(
        {
            RunState.SUCCEEDED,
            RunState.RUNNING,
            RunState.PAUSED,
            RunState.FAILED,
            RunState.CANCELLED,
        }
    ),
    # `retry` takes a failed run up again where it stopped
    RunState.FAILED: frozenset({RunState.QUEUED, RunState.RUNNING}),
    RunState.SUCCEEDED: frozenset(),
    RunState.CANCELLED: frozenset(),
}


class PauseCause(StrEnum):
    """Why a run is paused. Causes stand side by side; each is lifted by its own kind only."""

    USER = "user"
    WINDOW = "window"
    SIGNAL = "signal"
    QUARANTINE = "quarantine"
    ERROR = "error"
    CHANGED_JOB = "changed job"
    STOP_ALL = "stop-all"


class SignalState(StrEnum):
    """What a signal's last sample means for a run (pg/schema/002_pace.sql holds the same five).

    ok: beyond its resume threshold. slow: between resume and stop. stop: at or beyond stop, or not
    yet beyond resume again. unreadable: asked for, or readable before, and not now: it stops the
    run (fail closed). off: this role never could read it, and nobody asked for it.
    """

    OK = "ok"
    SLOW = "slow"
    STOP = "stop"
    UNREADABLE = "unreadable"
    OFF = "off"

    @property
    def stops(self) -> bool:
        """True where a run may not work."""
        return self in {SignalState.STOP, SignalState.UNREADABLE}


class SlicePhase(StrEnum):
    """What a slice needs next."""

    WALK = "walk"
    SWEEP = "sweep"
    VERIFY = "verify"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Counts:
    """Keys paged, by what became of them (I2): `paged` is the sum of all the others.

    written: the row was updated, inserted (at least one row of it) or deleted.
    unchanged: the transform left it as it is.
    skipped: an Insert found the row there and `on_conflict` skips it.
    quarantined: it cannot be processed; the quarantine holds its key and reason.
    suppressed: a trigger of the target returned nothing.
    gone: deleted, or no longer matching, between paging and taking.
    deferred: on the page, not obtained yet; taken again by the sweep.
    """

    paged: int = 0
    written: int = 0
    unchanged: int = 0
    skipped: int = 0
    quarantined: int = 0
    suppressed: int = 0
    gone: int = 0
    deferred: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Counts)))

    @property
    def settled(self) -> int:
        """Keys whose outcome is final."""
        return self.paged - self.deferred

    def reach(self, limit: int | None) -> bool:
        """True when as many rows were taken as a run may take: there may be more."""
        return limit is not None and self.paged >= limit

    @property
    def total(self) -> int:
        """The sum of all outcomes, deferred keys among them."""
        return (
            self.written
            + self.unchanged
            + self.skipped
            + self.quarantined
            + self.suppressed
            + self.gone
            + self.deferred
        )

    @property
    def adds_up(self) -> bool:
        """True when every key paged has exactly one outcome."""
        return self.paged == self.total

    def as_dict(self) -> dict[str, int]:
        """The counts by name, in the order of the declaration."""
        return {f.name: getattr(self, f.name) for f in fields(Counts)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """A run as a job's own code may see it: no secret, no connection.

    Attributes:
        id: such as `fill_departure-7f3k2`.
        job: the job's name.
        database: the name of the database in the project's settings.
        params: the values of the declared parameters, secret ones left out.
        state: where the run was when this was read.
        counts: keys by outcome when this was read.
    """

    id: str
    job: str
    database: str
    params: Mapping[str, object]
    state: RunState = RunState.QUEUED
    counts: Counts = field(default_factory=Counts)
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchInfo:
    """One committed batch, as `after_batch` sees it.

    Attributes:
        run: the run's id.
        slice: the slice's number, from 1.
        epoch: the fencing number under which it committed.
        counts: what this batch added; `deferred` may be negative in the sweep.
        seconds: from BEGIN to the answer to COMMIT.
        phase: walk; or sweep, for rows that had been deferred.
    """

    run: str
    slice: int
    epoch: int
    counts: Counts
    seconds: float
    phase: SlicePhase = SlicePhase.WALK
