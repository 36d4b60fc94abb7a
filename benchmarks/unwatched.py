"""`backfill` with as much of the watching left out as can be: for a comparison, and nothing else.

No batch is counted, no checkpoint written, no picture published, no event sent. What a run needs to
be right stays: the ledger's own rows, and the signals.
"""

from __future__ import annotations

from typing import Any

from celery.events import EventDispatcher

from backfill.cli import main
from backfill.worker import publishing
from backfill.worker.observer import CheckpointObserver
from backfill.worker.reconcile import Reconciler


def _nothing(*_: Any, **__: Any) -> None:
    """What is left out."""


def leave_out() -> None:
    """Replace what watches in this process, and in those that it forks."""
    for name in ("batch_committed", "batch_failed", "outage", "flush"):
        setattr(CheckpointObserver, name, _nothing)
    for name in ("round", "end"):
        setattr(publishing._Publishing, name, _nothing)
    for name in ("send", "publish"):
        setattr(EventDispatcher, name, _nothing)
    setattr(Reconciler, "_mend_checkpoint", _nothing)  # noqa: B010 - mypy forbids the assignment


if __name__ == "__main__":
    leave_out()
    main()
