"""`backfill` with as much of the watching left out as can be: for a comparison, and nothing else.

No batch is counted, no checkpoint written, no picture published, no event sent. What a run needs to
be right stays: the ledger's own rows, and the signals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from celery.events import EventDispatcher

from backfill.cli import main
from backfill.worker import publishing
from backfill.worker.observer import CheckpointObserver
from backfill.worker.reconcile import Reconciler


def _nothing(*_: Any, **__: Any) -> None:
    """What is left out."""


#: What watches, in workers and the processes that they fork.
WATCHING: Mapping[type, Sequence[str]] = {
    CheckpointObserver: ("batch_committed", "batch_failed", "outage", "flush"),
    publishing._Publishing: ("round", "end"),
    EventDispatcher: ("send", "publish"),
    Reconciler: ("_mend_checkpoint",),
}


def leave_out() -> None:
    """Replace what watches in this process, and in those that it forks."""
    for owner, names in WATCHING.items():
        for name in names:
            setattr(owner, name, _nothing)


if __name__ == "__main__":
    leave_out()
    main()
