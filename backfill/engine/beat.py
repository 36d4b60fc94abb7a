"""Keeping a slice's lease while a job's own code works on rows outside any transaction (I3).

A thread of its own, because one slow answer may take longer than the lease. It uses the
workbench's connection, which nobody else uses meanwhile: psycopg lets one thread at a time.

It does not beat for ever. A call that never comes back would keep its slice for good, so after
`LONGEST_CALL_SECONDS` the lease is left to run out; whoever takes the slice then begins with the
same row. When the late answer comes, the epoch is another's and nothing is recorded twice.
"""

from __future__ import annotations

import threading
from types import TracebackType

import psycopg

from backfill.engine.bench import Bench
from backfill.pg import slices
from backfill.pg.slices import Slice

#: The lease is renewed so often, as a share of it.
BEAT_SHARE = 1 / 3
#: One call of the job's code is waited for so long.
LONGEST_CALL_SECONDS = 120.0


class Beat:
    """Renews the lease of a slice while the block runs."""

    def __init__(self, bench: Bench, held: Slice) -> None:
        self._bench = bench
        self._held = held
        self._seconds = bench.settings.lease_seconds * BEAT_SHARE
        self._over = threading.Event()
        self._lost = False
        self._call_began = bench.clock.monotonic()
        self._thread = threading.Thread(target=self._beat, name="backfill-beat", daemon=True)

    def __enter__(self) -> Beat:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def should_stop(self) -> bool:
        """Asked before each further row: the worker stops, or the slice may not be ours any more.

        What is done by then is tried to be written; a slice that is another's refuses that.
        """
        self._call_began = self._bench.clock.monotonic()
        return self._lost or self._bench.stopping()

    def _beat(self) -> None:
        bench = self._bench
        while not self._over.wait(self._seconds):
            if bench.clock.monotonic() - self._call_began > LONGEST_CALL_SECONDS:
                continue
            try:
                if slices.heartbeat(
                    bench.conn, bench.ledger, self._held, lease_seconds=bench.settings.lease_seconds
                ):
                    continue
            except psycopg.Error:
                pass  # the batch finds what is the matter with the connection, and opens another
            self._lost = True
            return
