"""Calling a job's own hooks, outside transactions; `before_run` and `after_run` one at a time.

Every slot finds a queued run, and every idle slot a run that has come to its end. A hook that
empties the target must not be under way in one process while another writes rows already: so the
caller holds the hook's lease (pg/hooks.py), renewed while the hook runs, and compared when the
run's state follows from it. Who dies leaves a lease that runs out; then another calls the hook
once more, which is why both are at least once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime

import psycopg

from backfill.engine.beat import Beat
from backfill.engine.bench import Bench
from backfill.engine.faults import StopError
from backfill.engine.telling import raised
from backfill.pg import hooks
from backfill.pg.hooks import Hook


def call_hook(bench: Bench, name: str, hook: Callable[[], None]) -> None:
    """Call one of the job's hooks, outside transactions.

    Raises:
        StopError: it raised something; the run pauses with that reason.
    """
    try:
        hook()
    except Exception as error:
        raise StopError(
            f"{type(bench.job).__name__}.{name} raised {raised(error, bench.secrets)}",
            summary=f"{name} raised {type(error).__name__}",
        ) from error


class Calling:
    """The lease under which this process may call a hook of its run."""

    def __init__(self, bench: Bench, hook: Hook, until: datetime) -> None:
        self._bench = bench
        self._hook = hook
        self._until = until

    def call(self, hook: Callable[[], None]) -> None:
        """Call it, however long it takes, and renew the lease meanwhile; raises as `call_hook`."""
        with Beat(self._bench, self._renew, is_bounded=False):
            call_hook(self._bench, self._hook.name.lower(), hook)

    def is_ours(self) -> bool:
        """Whether nobody else has taken the lease; inside a transaction it stays so."""
        bench = self._bench
        return hooks.is_ours(bench.conn, bench.ledger, bench.run.id, self._hook, until=self._until)

    def _renew(self) -> bool:
        bench = self._bench
        until = hooks.renew_hook(
            bench.conn,
            bench.ledger,
            bench.run.id,
            self._hook,
            until=self._until,
            seconds=bench.settings.lease_seconds,
        )
        if until is None:
            return False
        self._until = until
        return True

    def drop(self) -> None:
        """Give the lease back."""
        bench = self._bench
        hooks.drop_hook(bench.conn, bench.ledger, bench.run.id, self._hook, until=self._until)


@contextmanager
def calling(bench: Bench, hook: Hook) -> Iterator[Calling | None]:
    """Hold the hook's lease within; None: another process or thread calls it now.

    The state that made the hook due has to be read again within: it may have been left since.
    """
    until = hooks.take_hook(
        bench.conn, bench.ledger, bench.run.id, hook, seconds=bench.settings.lease_seconds
    )
    if until is None:
        yield None
        return
    held = Calling(bench, hook, until)
    try:
        yield held
    finally:
        with suppress(psycopg.Error):  # then it runs out
            held.drop()
