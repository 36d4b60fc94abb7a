"""Calling a job's own hooks, outside transactions."""

from __future__ import annotations

from collections.abc import Callable

from backfill.engine.bench import Bench
from backfill.engine.faults import StopError
from backfill.engine.telling import raised


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
