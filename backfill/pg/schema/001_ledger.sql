-- The ledger: what is decided, and what has been done. It lives in the target's database, so that a
-- batch's writes and its record commit together (I1). Redis and Celery only carry hints (I3, I4).
--
-- Keys are kept as text[]: each key column as its type's own text under fixed settings (I6).
-- Lock order, everywhere: run, then slice, then the user's rows. A batch locks its slice only.

CREATE SCHEMA IF NOT EXISTS {schema};

-- One row. `id` prefixes our Redis keys and travels in every task: a worker connected to another
-- ledger refuses. The reconciler's lease says which worker compares and sends (nobody depends on it
-- for correctness: a second reconciler would only send messages twice).
CREATE TABLE {schema}.ledger (
    singleton        boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    id               uuid NOT NULL DEFAULT gen_random_uuid(),
    version          integer NOT NULL,
    reconciler       text,
    reconciler_until timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO {schema}.ledger (version) VALUES (1);

CREATE TABLE {schema}.run (
    id             text PRIMARY KEY,
    job            text NOT NULL,
    job_version    integer NOT NULL,
    fingerprint    text NOT NULL,               -- of the declaration and the parameters
    declaration    jsonb NOT NULL,
    params         jsonb NOT NULL,              -- secret parameters are never here
    options        jsonb NOT NULL,
    executor       text NOT NULL CHECK (executor IN ('celery', 'local')),
    requested_by   text NOT NULL,
    source         jsonb NOT NULL,              -- table, key columns and types as resolved at enqueue
    state          text NOT NULL DEFAULT 'queued' CHECK (state IN (
                       'queued', 'running', 'paused', 'sweeping', 'verifying',
                       'succeeded', 'failed', 'cancelled')),
    horizon        text[],                      -- the largest key when the run began; NULL: empty table
    barrier        text[],                      -- older writers: virtual transactions to wait for
    barrier_until  timestamptz,
    began          boolean NOT NULL DEFAULT false,
    frontier       text[],                      -- upper end of the newest slice; NULL: none placed yet
    frontier_done  boolean NOT NULL DEFAULT false,
    slices         integer NOT NULL DEFAULT 0,
    passes         integer NOT NULL DEFAULT 0,  -- how often the completion check sent slices back
    total_rows     bigint,
    total_is_exact boolean NOT NULL DEFAULT false,
    failure        text,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    started_at     timestamptz,
    finished_at    timestamptz
);

-- One live run per job (I1): an index, so that two enqueues at the same instant cannot both pass.
CREATE UNIQUE INDEX run_one_live_per_job ON {schema}.run (job)
    WHERE state IN ('queued', 'running', 'paused', 'sweeping', 'verifying');
CREATE INDEX run_by_age ON {schema}.run (created_at DESC);

-- The arrows of backfill/model.py, TRANSITIONS (a CHECK cannot see the old state). A test compares.
CREATE FUNCTION {schema}.run_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM (VALUES
            ('queued', 'running'), ('queued', 'paused'), ('queued', 'failed'), ('queued', 'cancelled'),
            ('running', 'sweeping'), ('running', 'paused'), ('running', 'failed'), ('running', 'cancelled'),
            ('paused', 'queued'), ('paused', 'running'), ('paused', 'failed'), ('paused', 'cancelled'),
            ('sweeping', 'verifying'), ('sweeping', 'running'), ('sweeping', 'paused'),
            ('sweeping', 'failed'), ('sweeping', 'cancelled'),
            ('verifying', 'succeeded'), ('verifying', 'running'), ('verifying', 'paused'),
            ('verifying', 'failed'), ('verifying', 'cancelled'),
            ('failed', 'queued'), ('failed', 'running')
        ) AS arrow (old_state, new_state)
        WHERE old_state = OLD.state AND new_state = NEW.state
    ) THEN
        RAISE EXCEPTION 'run % cannot go from % to %', OLD.id, OLD.state, NEW.state
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER run_transition BEFORE UPDATE OF state ON {schema}.run
    FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state)
    EXECUTE FUNCTION {schema}.run_transition();

-- What a live run writes: two live runs never write the same column of one table (I1).
-- Deleting rows is the column '*'. The rows go when the run ends.
CREATE TABLE {schema}.write_claim (
    relation text NOT NULL,
    column_name text NOT NULL,
    run      text NOT NULL REFERENCES {schema}.run ON DELETE CASCADE,
    PRIMARY KEY (relation, column_name)
);
CREATE INDEX write_claim_by_run ON {schema}.write_claim (run);

-- Why a run is paused; it is paused as long as there is a row.
CREATE TABLE {schema}.pause (
    run       text NOT NULL REFERENCES {schema}.run ON DELETE CASCADE,
    cause     text NOT NULL CHECK (cause IN (
                  'user', 'window', 'signal', 'quarantine', 'error', 'changed job', 'stop-all')),
    reason    text NOT NULL,
    ends      text NOT NULL,                    -- what will end it, in words (I7)
    caused_by text NOT NULL,
    since     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run, cause)
);

-- A half-open key interval ("after", upto]. Who holds it knows its epoch and commits nothing under
-- an older one (I3). The slot is the place in the run's concurrency that the holder fills.
CREATE TABLE {schema}.slice (
    run         text NOT NULL REFERENCES {schema}.run ON DELETE CASCADE,
    number      integer NOT NULL,
    "after"     text[],                         -- NULL: from the smallest key
    upto        text[] NOT NULL,
    cursor      text[],                         -- NULL: nothing yet
    phase       text NOT NULL DEFAULT 'walk' CHECK (phase IN ('walk', 'sweep', 'verify', 'done')),
    pass        integer NOT NULL DEFAULT 0,
    epoch       bigint NOT NULL DEFAULT 0,
    holder      text,
    slot        integer,
    lease_until timestamptz,
    attempts    integer NOT NULL DEFAULT 0,     -- failures since the last commit
    not_before  timestamptz NOT NULL DEFAULT '-infinity',
    paged       bigint NOT NULL DEFAULT 0,
    written     bigint NOT NULL DEFAULT 0,
    unchanged   bigint NOT NULL DEFAULT 0,
    skipped     bigint NOT NULL DEFAULT 0,
    quarantined bigint NOT NULL DEFAULT 0,
    suppressed  bigint NOT NULL DEFAULT 0,
    gone        bigint NOT NULL DEFAULT 0,
    deferred    bigint NOT NULL DEFAULT 0,
    progress_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run, number),
    CONSTRAINT every_key_has_one_outcome CHECK (                                             -- I2
        paged = written + unchanged + skipped + quarantined + suppressed + gone + deferred),
    CONSTRAINT held_means_leased CHECK ((holder IS NULL) = (lease_until IS NULL)),
    CONSTRAINT done_means_nothing_deferred CHECK (phase NOT IN ('verify', 'done') OR deferred = 0)
) WITH (fillfactor = 50);                       -- updated once a batch: leave room for HOT updates
-- A slot is filled once: a doubled message finds it taken (I3).
CREATE UNIQUE INDEX slice_slot ON {schema}.slice (run, slot) WHERE slot IS NOT NULL;
CREATE INDEX slice_to_do ON {schema}.slice (run, phase, number) WHERE phase <> 'done';

-- On a page, not obtained; taken again by the sweep.
CREATE TABLE {schema}.deferred (
    run    text NOT NULL,
    slice  integer NOT NULL,
    key    text[] NOT NULL,
    tries  integer NOT NULL DEFAULT 0,
    since  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run, slice, key),
    FOREIGN KEY (run, slice) REFERENCES {schema}.slice ON DELETE CASCADE
);

-- Rows that cannot be processed. `message` may quote the row: it is shown by
-- `backfill quarantine list` and goes nowhere else.
CREATE TABLE {schema}.quarantine (
    run      text NOT NULL,
    slice    integer NOT NULL,
    key      text[] NOT NULL,
    sqlstate text,                              -- NULL: the transform refused the row
    message  text NOT NULL,
    accepted boolean NOT NULL DEFAULT false,
    since    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run, slice, key),
    FOREIGN KEY (run, slice) REFERENCES {schema}.slice ON DELETE CASCADE
);
CREATE INDEX quarantine_open ON {schema}.quarantine (run) WHERE NOT accepted;

-- When the message for a slot was last sent; the reconciler sends it again when it seems lost.
CREATE TABLE {schema}.slot (
    run     text NOT NULL REFERENCES {schema}.run ON DELETE CASCADE,
    slot    integer NOT NULL,
    sent_at timestamptz NOT NULL,
    PRIMARY KEY (run, slot)
);

-- Every state change says who or what caused it, when and why (I7). `run` may be NULL.
CREATE TABLE {schema}.event (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run       text REFERENCES {schema}.run ON DELETE CASCADE,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    name      text NOT NULL,
    caused_by text NOT NULL,
    detail    jsonb NOT NULL DEFAULT '{{}}'
);
CREATE INDEX event_by_run ON {schema}.event (run, id);

-- Worker processes, so that "no worker is running" can be said without asking the broker.
CREATE TABLE {schema}.worker (
    name    text PRIMARY KEY,
    version text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz NOT NULL
);
