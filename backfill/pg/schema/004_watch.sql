-- Watching: what a run did over time, and which messages of it were sent to people.
-- Additive: code of version 3 goes on beside it.

-- How far a run was at an instant, for charts and reports: at most one row in ten seconds, rarer the
-- longer a run lasts (pg/pulses.py). Whoever holds the sampler's lease writes them. A pulse that was
-- lost or written twice changes nothing but a chart.
CREATE TABLE {schema}.pulse (
    run           text NOT NULL REFERENCES {schema}.run ON DELETE CASCADE,
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    state         text NOT NULL,
    settled       bigint NOT NULL,                -- keys that were settled until then
    speed         float8 NOT NULL,                -- run.speed
    batch_rows    integer,                        -- of the newest batches; NULL: nobody works
    batch_seconds float8,
    signals       jsonb NOT NULL DEFAULT '{{}}',  -- each signal's value by its name
    PRIMARY KEY (run, at)
);

-- Messages to people (worker/notices.py), an outbox: each event that is not noticed yet is marked, and
-- gets a row for each channel that wants it, in one statement. The message is sent after that, outside
-- any transaction, and then marked as sent: whoever dies between sends it again, so at least once.
-- What happened before this upgrade is noticed by nobody. The notifier's lease says who looks (as the
-- sampler's, it only saves work: the rows themselves say whose turn it is).
ALTER TABLE {schema}.ledger
    ADD COLUMN notifier       text,
    ADD COLUMN notifier_until timestamptz NOT NULL DEFAULT '-infinity';
ALTER TABLE {schema}.event ADD COLUMN noticed boolean NOT NULL DEFAULT true;
ALTER TABLE {schema}.event ALTER COLUMN noticed SET DEFAULT false;
CREATE INDEX event_unnoticed ON {schema}.event (id) WHERE NOT noticed;

CREATE TABLE {schema}.notice (
    event      bigint NOT NULL REFERENCES {schema}.event ON DELETE CASCADE,
    channel    text NOT NULL,                     -- its name in the settings
    attempts   integer NOT NULL DEFAULT 0,
    not_before timestamptz NOT NULL DEFAULT '-infinity',   -- also the lease of who is sending it
    sent_at    timestamptz,
    failed_at  timestamptz,                       -- given up
    error      text NOT NULL DEFAULT '',          -- of the last attempt; never the address
    PRIMARY KEY (event, channel)
);
CREATE INDEX notice_unsent ON {schema}.notice (not_before, event)
    WHERE sent_at IS NULL AND failed_at IS NULL;

UPDATE {schema}.ledger SET version = 4;
