"""Reading the source outside batches: its last key, where slices end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from backfill.engine.bench import Bench
from backfill.engine.faults import StopError
from backfill.pg.connect import READ_LIMITS, Limits, transaction


def limits(bench: Bench) -> Limits:
    """Of a table the walk of an index takes no time; what a query may take, its options say."""
    if bench.source.is_lockable:
        return READ_LIMITS
    seconds = bench.options.statement_timeout_seconds
    return Limits(
        lock_timeout_seconds=READ_LIMITS.lock_timeout_seconds, statement_timeout_seconds=seconds
    )


@contextmanager
def reading_source(bench: Bench) -> Iterator[None]:
    """A transaction in the source's database.

    Raises:
        StopError: a query took longer than its options allow.
    """
    began, allowed = bench.clock.monotonic(), limits(bench)
    try:
        with transaction(bench.reader, allowed, run=bench.run.id):
            yield
    except psycopg.errors.QueryCanceled as error:
        took = bench.clock.monotonic() - began
        if bench.source.is_lockable or took < allowed.statement_timeout_seconds:
            raise
        raise StopError(
            f"{bench.source.qualified} could not be read within"
            f" statement_timeout_seconds={allowed.statement_timeout_seconds:g}; give the job more,"
            " or keep its rows in a materialized view with an index on the key",
            summary="the source is too slow",
        ) from error
