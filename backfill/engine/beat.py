"""Keeping a lease while a job's own code works outside any transaction (I3): a slice's, a hook's.

A thread of its own, because one slow answer may take longer than the lease. It uses the
workbench's connection, which nobody else uses meanwhile: psycopg lets one thread at a time.

It does not beat for ever. A call that never comes back would keep its slice for good, so after
`LONGEST_CALL_SECONDS` the lease is left to run out; whoever takes the slice then begins with the
same row. When the late answer comes, the epoch is another's and nothing is recorded twice. A hook
may take as long as it needs: nothing waits for it but its own run, which can be cancelled. And it
cannot be taken back, so its lease outlives a lost connection, where a new one can be had in time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

import psycopg

from backfill.engine.bench import Bench
from backfill.errors import UnreachableError
from backfill.pg import slices
from backfill.pg.slices import Slice

#: The lease is renewed so often, as a share of it.
BEAT_SHARE = 1 / 3
#: One call of the job's code is waited for so long.
LONGEST_CALL_SECONDS = 120.0


class Beat:
    """Renews a lease while the block runs.

    Args:
        renew: False when the lease is another's.
        is_bounded: a call that takes longer than LONGEST_CALL_SECONDS is given up.
    """

    def __init__(self, bench: Bench, renew: Callable[[], bool], *, is_bounded: bool = True) -> None:
        self._bench = bench
        self._renew = renew
        self._is_bounded = is_bounded
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
        while not self._over.wait(self._seconds):
            called_seconds = self._bench.clock.monotonic() - self._call_began
            if self._is_bounded and called_seconds > LONGEST_CALL_SECONDS:
                continue
            try:
                if self._renew():
                    continue
            except psycopg.Error:
                # a batch finds what is the matter with the connection, and opens another
                if not self._is_bounded:
                    with suppress(UnreachableError):
                        self._bench.reconnect_if_closed()
                    continue
            self._lost = True
            return


def beat_of(bench: Bench, held: Slice) -> Beat:
    """Renews the lease of a slice while the block runs."""

    def renew() -> bool:
        return slices.heartbeat(
            bench.conn, bench.ledger, held, lease_seconds=bench.settings.lease_seconds
        )

    return Beat(bench, renew)
