"""The event contract: every name that the log and the ledger's events use, and its fields.

| event | when | fields beside run, at, caused_by |
|---|---|---|
| run.enqueued | a run was written into the ledger | job, database, table, params |
| run.begun | horizon read, older writers ended | horizon, total_rows, total_is_exact |
| run.waiting | older writers still hold locks | pids, until |
| run.paused | a cause was added | cause, reason, ends |
| run.resumed | the last cause was lifted | cause |
| run.sweeping | every slice is walked | deferred |
| run.verifying | nothing is deferred | slices |
| run.rewalked | the completion check found more to do | slices, passes, keys |
| run.succeeded | the completion check agrees | counts, seconds |
| run.failed | it stopped for good, until `retry` | reason |
| run.cancelled | somebody ended it | reason |
| run.retried | a failed run was taken up again | |
| run.handed_over | a process's own run is the workers' now | |
| run.changed_accepted | a changed declaration was accepted | fingerprint |
| slice.placed | the frontier moved | slice, slot |
| slice.taken | a free slice was leased | slice, epoch, slot |
| slice.returned | the holder gave it back | slice, why |
| slice.freed | its lease had run out | slice, holder, epoch |
| slice.walked / slice.swept / slice.verified | a phase ended | slice, counts |
| batch.committed | one transaction (log only) | slice, epoch, counts, seconds, rows_per_second |
| batch.failed | one transaction was rolled back (log only) | slice, epoch, error, attempt |
| rows.quarantined | rows cannot be processed | slice, rows, sqlstate |
| rows.released | quarantined rows are taken again | rows |
| rows.accepted | quarantined rows stay as they are | rows |
| backend.terminated | a lost holder's transaction was ended | slice, pid |
| worker.started / worker.stopped | a worker process (log and table worker) | worker |
| checkpoint.unavailable / checkpoint.rebuilt | Redis went away, or came back empty (log only) | |

Row values, DETAIL and URLs are never fields: they would end up in logs.
"""

from __future__ import annotations

from enum import StrEnum


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
    SLICE_PLACED = "slice.placed"
    SLICE_TAKEN = "slice.taken"
    SLICE_RETURNED = "slice.returned"
    SLICE_FREED = "slice.freed"
    SLICE_WALKED = "slice.walked"
    SLICE_SWEPT = "slice.swept"
    SLICE_VERIFIED = "slice.verified"
    BATCH_COMMITTED = "batch.committed"
    BATCH_FAILED = "batch.failed"
    ROWS_QUARANTINED = "rows.quarantined"
    ROWS_RELEASED = "rows.released"
    ROWS_ACCEPTED = "rows.accepted"
    BACKEND_TERMINATED = "backend.terminated"
    WORKER_STARTED = "worker.started"
    WORKER_STOPPED = "worker.stopped"
    CHECKPOINT_UNAVAILABLE = "checkpoint.unavailable"
    CHECKPOINT_REBUILT = "checkpoint.rebuilt"
