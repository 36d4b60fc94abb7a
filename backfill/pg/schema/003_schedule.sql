-- Schedules: runs that begin by the clock. Additive: code of version 2 goes on beside it.

-- A tick is taken by compare-and-set on its schedule's row (next_at, or waiting_tick), in the same
-- transaction that writes the run: whoever dies before its commit has taken nothing, and whoever
-- comes second finds the row changed.
CREATE TABLE {schema}.schedule (
    name         text PRIMARY KEY,
    job          text NOT NULL,
    params       jsonb NOT NULL,               -- those that were given; secret ones are never here
    options      jsonb NOT NULL,               -- overrides as they were typed: name to text
    cron         text,
    zone         text,                         -- in which cron is read
    at           timestamptz,                  -- of a schedule that ticks once
    if_running   text NOT NULL CHECK (if_running IN ('skip', 'queue')),
    if_missed    text NOT NULL CHECK (if_missed IN ('skip', 'run')),
    created_by   text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    next_at      timestamptz,                  -- the next tick; NULL: none any more
    waiting_tick timestamptz,                  -- a tick that waits for the job's live run to end
    last_tick    timestamptz,
    last_outcome text CHECK (last_outcome IN ('started', 'waiting', 'skipped', 'missed', 'failed')),
    last_reason  text NOT NULL DEFAULT '',
    last_run     text,                         -- the run that was started last; it may be deleted
    CONSTRAINT recurring_or_once CHECK (
        (cron IS NULL) = (zone IS NULL) AND (cron IS NULL) <> (at IS NULL))
);

UPDATE {schema}.ledger SET version = 3;
