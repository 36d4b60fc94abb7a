"""What people are told of a run: one message, made from an event and from what the ledger says now.

It says which run of which job, on which database, what happened and why, how far the run is, and
what to type next. It never holds a row's value or a secret: a reason is cut where keys begin
(`NAMING_KEYS`), quarantined rows are counted, secret parameters are not in the ledger.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from backfill.errors import UsageError
from backfill.events import NAMING_KEYS, Event
from backfill.model import Counts, PauseCause
from backfill.pg.connect import Connection
from backfill.pg.ledger import Ledger, Run, get_run, totals
from backfill.pg.notices import Notice
from backfill.settings_notify import Kind
from backfill.watch.words import bounds_flags, counts_sum, duration, label, limit_reached

#: The event, and the cause of a pause, that each kind of message tells of.
EVENTS: Mapping[tuple[str, str], Kind] = {
    (Event.RUN_BEGUN, ""): Kind.STARTED,
    (Event.RUN_PAUSED, PauseCause.SIGNAL): Kind.SIGNAL,
    (Event.RUN_PAUSED, PauseCause.ERROR): Kind.ERROR,
    (Event.RUN_PAUSED, PauseCause.CHANGED_JOB): Kind.ERROR,
    (Event.RUN_PAUSED, PauseCause.QUARANTINE): Kind.QUARANTINE,
    (Event.RUN_FAILED, ""): Kind.FAILED,
    (Event.RUN_SUCCEEDED, ""): Kind.SUCCEEDED,
}

#: A reason quotes what a server or a program said, at any length.
_MOST_REASON = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """See the module.

    Attributes:
        id: the same for each attempt and each channel: by it a receiver knows a message again.
        event: its name.
        label: what the run fills.
        database: its name in the settings, and where it is.
        state: of the run, as it was when this happened.
        reason: in words; empty where there is nothing to say.
        ends: what will end a pause, in words.
        counts: the newest.
        seconds: since the run began; None: it has not.
        next: the command to type.
        headline: what happened, in one line.
    """

    id: str
    kind: Kind | Literal["test"]
    event: str
    run: str
    job: str
    label: str
    database: str
    state: str
    reason: str
    ends: str
    caused_by: str
    at: datetime
    counts: Counts
    total_rows: int | None
    total_is_exact: bool
    seconds: float | None
    next: str
    headline: str

    @property
    def text(self) -> str:
        """For people, in a few lines."""
        if self.kind == "test":
            return self.headline
        lines = [self.headline]
        if self.kind is Kind.STARTED:
            about = "" if self.total_is_exact else "about "
            rows = "" if self.total_rows is None else f": {about}{self.total_rows:,} rows to do"
            lines.append(f"{self.label} on {self.database}{rows}")
        else:
            lines.append(f"{self.label} on {self.database}: {counts_sum(self.counts)}")
        if self.kind is Kind.SIGNAL and self.ends:
            lines.append(f"it goes on {self.ends}")
        mended = "when it is mended: " if self.kind in {Kind.ERROR, Kind.FAILED} else ""
        lines.append(f"{mended}`{self.next}`")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """For programs; names are added, never changed."""
        return {
            "id": self.id,
            "kind": str(self.kind),
            "event": self.event,
            "run": self.run,
            "job": self.job,
            "label": self.label,
            "database": self.database,
            "state": self.state,
            "reason": self.reason,
            "ends": self.ends,
            "caused_by": self.caused_by,
            "at": self.at.astimezone(UTC).isoformat(),
            "counts": self.counts.as_dict(),
            "total_rows": self.total_rows,
            "total_is_exact": self.total_is_exact,
            "seconds": self.seconds,
            "next": self.next,
            "text": self.text,
        }


def compose(conn: Connection, ledger: Ledger, notice: Notice, *, database: str) -> Message:
    """The message of a notice.

    Args:
        database: its name and where it is, for people; no user, no password.

    Raises:
        UsageError: the run has been deleted meanwhile, or another version wrote the notice.
    """
    run = get_run(conn, ledger, notice.run)
    cause = str(notice.detail.get("cause", ""))
    kind = EVENTS.get((notice.name, cause))
    if kind is None:
        raise UsageError(f"nobody is told of {notice.name} by this version")
    reason = _clean(notice.detail.get("reason", ""))
    if kind is Kind.SUCCEEDED and "limit" in notice.detail:
        reason = limit_reached(notice.detail["limit"])
    seconds = (notice.at - run.started_at).total_seconds() if run.started_at else None
    return Message(
        id=f"{ledger.id}:{notice.id}",
        kind=kind,
        event=notice.name,
        run=run.id,
        job=run.job,
        label=_clean(label(run)),
        database=database,
        state=_state(kind, cause),
        reason=reason,
        ends=_clean(notice.detail.get("ends", "")),
        caused_by=_clean(notice.caused_by),
        at=notice.at,
        counts=totals(conn, ledger, run.id).counts,
        total_rows=run.total_rows,
        total_is_exact=run.total_is_exact,
        seconds=seconds,
        next=_next(kind, cause, run, str(notice.detail.get("ends", ""))),
        headline=_headline(kind, cause, run, reason, seconds),
    )


def trial(*, by: str, at: datetime) -> Message:
    """A message that tells of nothing: to try a channel."""
    return Message(
        id=f"test:{at.timestamp()}",
        kind="test",
        event="",
        run="",
        job="",
        label="",
        database="",
        state="",
        reason="",
        ends="",
        caused_by=by,
        at=at,
        counts=Counts(),
        total_rows=None,
        total_is_exact=False,
        seconds=None,
        next="backfill status",
        headline=f"a test by {by}: backfill can tell you of its runs here",
    )


def _headline(kind: Kind, cause: str, run: Run, reason: str, seconds: float | None) -> str:
    after = "" if seconds is None else f" after {duration(seconds)}"
    told = f": {reason}" if reason else ""
    if kind is Kind.STARTED:
        return f"{run.id} started, asked for by {_clean(run.requested_by)}"
    if kind is Kind.SUCCEEDED:
        return f"{run.id} succeeded{after}{told}"
    if kind is Kind.FAILED:
        return f"{run.id} failed{after}{told}"
    return f"{run.id} is paused ({cause}){after}{told}"


def _state(kind: Kind, cause: str) -> str:
    return {
        Kind.STARTED: "running",
        Kind.SUCCEEDED: "succeeded",
        Kind.FAILED: "failed",
    }.get(kind, f"paused ({cause})")


def _next(kind: Kind, cause: str, run: Run, ends: str) -> str:
    if cause == PauseCause.CHANGED_JOB and "backfill cancel" in ends:
        return f"backfill cancel {run.id}"  # no run can follow that change (engine/changed.py)
    if cause == PauseCause.CHANGED_JOB:
        return f"backfill resume {run.id} --accept-changes"
    if kind is Kind.ERROR:
        return f"backfill resume {run.id}" if run.executor == "celery" else run_again(run)
    return {
        Kind.STARTED: f"backfill watch {run.id}",
        Kind.QUARANTINE: f"backfill quarantine list {run.id}",
        Kind.FAILED: f"backfill retry {run.id}",
        Kind.SUCCEEDED: f"backfill report {run.id}",
    }.get(kind, f"backfill status {run.id}")


def run_again(run: Run) -> str:
    """The command that goes on with a run that a process of its own worked on; without keys."""
    if run.from_key is not None or run.to_key is not None:
        return f"backfill status {run.id}"
    params = [
        f"-p {shlex.quote(f'{name}={value if isinstance(value, str) else json.dumps(value)}')}"
        for name, value in run.params.items()
        if value is not None
    ]
    return " ".join(["backfill run", run.job, *params, *bounds_flags(run)])


def _clean(text: object) -> str:
    """In one line, without keys, of a bounded length."""
    told = re.sub(r"[\s\x00-\x1f\x7f]+", " ", str(text).partition(NAMING_KEYS)[0]).strip()
    return told if len(told) <= _MOST_REASON else told[: _MOST_REASON - 1] + "…"
