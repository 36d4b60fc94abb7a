"""What a person is told when the batches of a run in hand do not end in time.

A run is ended or reversed only when they have (engine/lifecycle.py), and that wait has a bound, the
ledger's (I5). A batch's own statements may take longer, if the run's options say so.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from backfill.errors import LockedOutError
from backfill.job import Options
from backfill.pg.connect import LEDGER_LIMITS
from backfill.pg.failure import FaultKind, classify
from backfill.pg.ledger import Run


@contextmanager
def for_batches_of(run: Run) -> Iterator[None]:
    """Around one transaction that waits for a run's batches; it is rolled back where it raises.

    Raises:
        LockedOutError: one of them holds its slice for longer than is waited.
    """
    began = time.monotonic()
    try:
        yield
    except psycopg.Error as error:
        waited = time.monotonic() - began
        fault = classify(
            error,
            writing=False,
            seconds=waited,
            timeout=LEDGER_LIMITS.statement_timeout_seconds,  # of several slices, one after another
        )
        if not fault.is_locked_out and fault.kind is not FaultKind.TIMEOUT:
            raise
        most = Options.from_json(run.options).statement_timeout_seconds
        raise LockedOutError(
            f"run {run.id} has a batch in hand that has not ended in {waited:.0f} s, or another"
            " command holds it; nothing has been changed",
            remedy=f"A statement of it may take {most:g} s. `backfill pause {run.id}` lets no"
            " further batch begin; then give this command again.",
        ) from error
