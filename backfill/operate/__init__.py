"""What a person does to a run, the same from the command line and from Flower.

Each function judges, acts and returns what the person is told; it asks for no confirmation and
prints nothing. Every one writes into the ledger who asked (I7).

1. What is refused has changed nothing: a function raises a BackfillError, with a remedy.
2. What is done is told, also when something after it fails: that failure is then a note and the
   exit code of what was told, and no exception.
3. Nothing here needs Redis but a hand-over to workers: messages only make it quicker (I3).
"""

from backfill.operate.databases import start_all, stop_all
from backfill.operate.options import changes_of, tune
from backfill.operate.rows import accept_quarantine, release_quarantine
from backfill.operate.runs import cancel, pause, resume, retry
from backfill.operate.told import Told

__all__ = [
    "Told",
    "accept_quarantine",
    "cancel",
    "changes_of",
    "pause",
    "release_quarantine",
    "resume",
    "retry",
    "start_all",
    "stop_all",
    "tune",
]
