-- Pace: what slows a run down or stops it, and what may be changed while it works.
-- Additive: code of version 1 goes on beside it.

-- The operator's red button: while stopped_at is set, every live run has the pause 'stop-all', and
-- so has each new one from its first moment. The sampler's lease says which process measures for
-- all (as the reconciler's, it only saves work: two samplers at once would write the same).
ALTER TABLE {schema}.ledger
    ADD COLUMN stopped_at    timestamptz,
    ADD COLUMN stopped_by    text,
    ADD COLUMN stop_reason   text,
    ADD COLUMN sampler       text,
    ADD COLUMN sampler_until timestamptz NOT NULL DEFAULT '-infinity';

-- The share of its full speed at which a run may work now: signals take it down by halves and let
-- it up again by small steps (AIMD).
ALTER TABLE {schema}.run
    ADD COLUMN speed float8 NOT NULL DEFAULT 1 CHECK (speed > 0 AND speed <= 1);

-- How long the last batch took, and how many rows it had: the signal "batch time" reads it.
ALTER TABLE {schema}.slice
    ADD COLUMN batch_seconds float8,
    ADD COLUMN batch_rows    integer;

-- The last sample of each signal that a live run obeys. One sample serves all workers, with Redis
-- and without; the newest `at` says whether anybody measures.
--   ok: below its resume threshold; slow: between resume and stop; stop: at or above stop, or not
--   yet below resume again; unreadable: it could be read before, and stops the run (fail closed);
--   off: this role cannot read it, and nobody asked for it.
CREATE TABLE {schema}.signal (
    run      text NOT NULL REFERENCES {schema}.run ON DELETE CASCADE,
    name     text NOT NULL,
    value    float8,                            -- NULL: not to be read
    unit     text NOT NULL,
    stop     float8 NOT NULL,
    resume   float8 NOT NULL,
    worse    text NOT NULL CHECK (worse IN ('above', 'below')),
    state    text NOT NULL CHECK (state IN ('ok', 'slow', 'stop', 'unreadable', 'off')),
    message  text NOT NULL DEFAULT '',          -- which replica, or why it cannot be read
    held     boolean NOT NULL DEFAULT false,    -- it stopped, and has not been beyond resume since:
                                                -- what cannot be read for a while does not forget
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    since    timestamptz NOT NULL DEFAULT clock_timestamp(),   -- of this state
    PRIMARY KEY (run, name)
) WITH (fillfactor = 50);                       -- updated once a second: leave room for HOT updates

UPDATE {schema}.ledger SET version = 2;
