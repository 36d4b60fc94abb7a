"""backfill.testing, as a user's tests use it."""
