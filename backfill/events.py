"""The event contract: every name that the log and the ledger's events use, and its fields.

| event | when | fields beside run, caused_by |
|---|---|---|
| run.enqueued | a run was written into the ledger | job, database, table, params, bounded, limit |
| run.waiting | older transactions still write to the source | pids, seconds |
| run.begun | it works | horizon, total_rows, total_is_exact, older_writers |
| run.paused | a cause was added | cause, reason, ends |
| run.resumed | causes were lifted | causes |
| run.sweeping | every slice is walked | deferred |
| run.verifying | nothing is deferred | slices |
| run.rewalked | the completion check sent slices back | slices, passes |
| run.succeeded | the completion check agrees | counts, limit |
| run.failed | it stopped for good, until `retry` | reason |
| run.cancelled | somebody ended it | reason |
| run.retried | a failed run was taken up again | |
| run.handed_over | a process's own run is the workers' now | |
| run.changed_accepted | a changed declaration was accepted | fingerprint |
| run.tuned | somebody changed its options while it lived | changes |
| run.slowed | signals take its speed down, or let it up again to the full | speed, reasons |
| rows.quarantined | rows cannot be processed | slice, rows, sqlstates |
| rows.released | quarantined rows are taken again | rows |
| rows.accepted | quarantined rows stay as they are | rows |
| slice.freed | its lease had run out | slice, holder, epoch |
| slice.rewalked | more remains of it than it left on purpose | slice, passes, remaining, left |
| commit.unconfirmed | it holds, but the wait for a synchronous standby was cancelled | seconds |
| backend.terminated | a lost holder's transaction was ended | pid |
| signal.off | this role cannot read a signal that nobody asked for | signal, reason |
| stop.all | the red button: every live run is paused, and every new one | reason, runs |
| start.all | the red button was released | runs |
| schedule.added, schedule.removed | somebody changed the schedules | schedule, job |
| schedule.ticked | a tick was due | schedule, tick, outcome, reason |

All of these are rows of the ledger and lines of the log. The rest are lines of the log alone:

| event | when | fields |
|---|---|---|
| batch.committed | one transaction | run, slice, epoch, phase, seconds, rows_per_second, counts |
| batch.failed | one transaction was rolled back | run, slice, epoch, error, attempt |
| batch.resized | the next batches have another size | run, slice, rows, was, reason |
| batch.yielded | another session waited for a lock of ours: it went first | run, slice, seconds |
| slice.placed | the frontier moved | run, slice |
| slice.not_placed | the table is locked: the next look finds the frontier | run, error |
| slice.taken | a slice was leased | run, slice, epoch, slot |
| slice.returned | the holder gave it back | run, slice, why |
| slice.walked, slice.swept | a phase of it ended | run, slice, counts |
| slice.verified | the completion check of it agreed | run, slice, remaining, left |
| worker.started, worker.stopped | a worker process | worker |
| checkpoint.unavailable | Redis does not answer | error |
| checkpoint.rebuilt | Redis had lost a run's progress | run |
| message.unsent | the broker did not take a slot's message | run, slot, error |
| notice.sent | a channel took a message to people | run, channel, kind |
| notice.unsent | it did not; the message is tried again | run, channel, kind, error, attempt |
| notice.failed | the message is given up | run, channel, kind, error, attempt |
| outbox.failed | no look for messages to people; the next round tries again | database, error |
| sample.failed | signals could not be sampled; the next round tries again | database, error |
| publish.failed | runs could not be pictured; the next round tries again | database, error |
| scrape.failed | runs could not be read for metrics; the next scrape tries | database, error |
| reconcile.failed | a round could not be finished; the next one tries again | database, error |
| hook.failed | a job's teardown raised something; nothing waits for it | run, hook, error |
| database.unreachable | a connection was lost, or not to be had | error |

Row values, DETAIL and URLs are never fields: they would end up in logs. Keys are row values, too:
`without_keys` takes them away wherever an event leaves the ledger.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

#: What stands in the reason of a failure, or of a pause, before the keys that it names.
NAMING_KEYS = "; for example"


class Event(StrEnum):
    """Names of events: `noun.past_verb`."""

    RUN_ENQUEUED = "run.enqueued"
    RUN_BEGUN = "run.begun"
    RUN_WAITING = "run.waiting"
    RUN_PAUSED = "run.paused"
    RUN_RESUMED = "run.resumed"
    RUN_SWEEPING = "run.sweeping"
    RUN_VERIFYING = "run.verifying"
    RUN_REWALKED = "run.rewalked"
    RUN_SUCCEEDED = "run.succeeded"
    RUN_FAILED = "run.failed"
    RUN_CANCELLED = "run.cancelled"
    RUN_RETRIED = "run.retried"
    RUN_HANDED_OVER = "run.handed_over"
    RUN_CHANGED_ACCEPTED = "run.changed_accepted"
    RUN_TUNED = "run.tuned"
    RUN_SLOWED = "run.slowed"
    SIGNAL_OFF = "signal.off"
    STOP_ALL = "stop.all"
    START_ALL = "start.all"
    SCHEDULE_ADDED = "schedule.added"
    SCHEDULE_REMOVED = "schedule.removed"
    SCHEDULE_TICKED = "schedule.ticked"
    SLICE_PLACED = "slice.placed"
    SLICE_NOT_PLACED = "slice.not_placed"
    SLICE_TAKEN = "slice.taken"
    SLICE_RETURNED = "slice.returned"
    SLICE_FREED = "slice.freed"
    SLICE_WALKED = "slice.walked"
    SLICE_SWEPT = "slice.swept"
    SLICE_VERIFIED = "slice.verified"
    SLICE_REWALKED = "slice.rewalked"
    BATCH_COMMITTED = "batch.committed"
    BATCH_FAILED = "batch.failed"
    BATCH_RESIZED = "batch.resized"
    BATCH_YIELDED = "batch.yielded"
    ROWS_QUARANTINED = "rows.quarantined"
    ROWS_RELEASED = "rows.released"
    ROWS_ACCEPTED = "rows.accepted"
    COMMIT_UNCONFIRMED = "commit.unconfirmed"
    BACKEND_TERMINATED = "backend.terminated"
    WORKER_STARTED = "worker.started"
    WORKER_STOPPED = "worker.stopped"
    CHECKPOINT_UNAVAILABLE = "checkpoint.unavailable"
    CHECKPOINT_REBUILT = "checkpoint.rebuilt"
    HOOK_FAILED = "hook.failed"
    DATABASE_UNREACHABLE = "database.unreachable"
    RECONCILE_FAILED = "reconcile.failed"
    SAMPLE_FAILED = "sample.failed"
    PUBLISH_FAILED = "publish.failed"
    SCRAPE_FAILED = "scrape.failed"
    MESSAGE_UNSENT = "message.unsent"
    NOTICE_SENT = "notice.sent"
    NOTICE_UNSENT = "notice.unsent"
    NOTICE_FAILED = "notice.failed"
    OUTBOX_FAILED = "outbox.failed"


#: Those that ask for somebody's attention; all others are logged as information.
LEVELS: Mapping[Event, int] = {
    Event.RUN_PAUSED: logging.WARNING,
    Event.RUN_FAILED: logging.ERROR,
    Event.SLICE_FREED: logging.WARNING,
    Event.COMMIT_UNCONFIRMED: logging.WARNING,
    Event.BACKEND_TERMINATED: logging.WARNING,
    Event.ROWS_QUARANTINED: logging.WARNING,
    Event.SIGNAL_OFF: logging.WARNING,
    Event.STOP_ALL: logging.WARNING,
}


def without_keys(event: str, detail: Mapping[str, Any]) -> dict[str, Any]:
    """An event's fields as they may leave the ledger: for a log, for Redis, for a page."""
    if event == Event.RUN_BEGUN:
        return {name: value for name, value in detail.items() if name != "horizon"}
    if event in {Event.RUN_FAILED, Event.RUN_PAUSED}:
        return {**detail, "reason": reason_without_keys(str(detail.get("reason", "")))}
    return dict(detail)


def reason_without_keys(reason: str) -> str:
    """Why a run failed or paused, without the keys that the ledger has with it."""
    told, named, _ = reason.partition(NAMING_KEYS)
    return f"{told} (keys are left out)" if named else reason
