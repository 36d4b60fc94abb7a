-- Versions: which code may work with a ledger that is newer than itself, and on which of its runs.
-- Additive; but code of version 5 and before goes by `version` alone, and stops at a newer ledger.
--
-- Code has the version of the ledger that it installs. It works with its own ledger, and with a newer
-- one whose needs_version is not above its own. An upgrade that only adds leaves needs_version as it
-- is; one that takes away what older code uses raises it.
ALTER TABLE {schema}.ledger ADD COLUMN needs_version integer NOT NULL DEFAULT 6;

-- A run that uses what came with a later version says so, and older code leaves it to newer.
ALTER TABLE {schema}.run ADD COLUMN needs_version integer NOT NULL DEFAULT 6;

UPDATE {schema}.ledger SET version = 6;
