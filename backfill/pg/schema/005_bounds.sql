-- Bounds: a run may take a part of its rows only. Additive; code of version 4 would not keep to
-- them, so upgrade the workers with the ledger.
--
-- The run's keys are those of ["from_key", "to_key"), as far as the horizon. A NULL "after" of a
-- slice means "from from_key on". At most row_limit keys are paged, over all slices.
ALTER TABLE {schema}.run
    ADD COLUMN from_key  text[],                -- the first key that is the run's; NULL: the smallest
    ADD COLUMN to_key    text[],                -- the first key that is not any more; NULL: none
    ADD COLUMN row_limit bigint CHECK (row_limit > 0);

-- Who walks a slice of a run with a limit first reserves what it will page: allowance is what is
-- left of that. The reserving transaction locks the run, and leaves no more than
--     row_limit >= sum(paged) + sum(allowance) over slices that are walked
-- A batch moves what it pages from one to the other, so the sum stays. A slice that is cut ends at
-- its cursor (NULL: it has no key at all), because nothing is left to reserve.
ALTER TABLE {schema}.slice
    ADD COLUMN allowance bigint NOT NULL DEFAULT 0 CHECK (allowance >= 0),
    ADD COLUMN is_cut    boolean NOT NULL DEFAULT false;

UPDATE {schema}.ledger SET version = 5;
