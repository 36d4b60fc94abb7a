"""What became of a run's batches: counted in each process, added up in Redis over all of them.

| name | counts |
|---|---|
| `batches:PHASE` | committed batches; PHASE is walk or sweep |
| `seconds:PHASE` | how long they took, from BEGIN to the answer to COMMIT |
| `upto:PHASE:EDGE` | those that took at most EDGE seconds, and more than the edge before |
| `failed:CODE` | tries that were rolled back and made again, by SQLSTATE, or LOST, or OUTAGE |

These are for metrics, and nothing is decided by them: a process that is killed loses those of its
last moments, and with Redis all are lost. What has to be right is counted in the ledger.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections import defaultdict

from backfill.checkpoint import Checkpoint

#: Upper edges of the histogram, in seconds: around the target of 0.05, and up to a time-out.
EDGES = (0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
#: Codes of what has no SQLSTATE: a lost connection, and a world outside that is away.
LOST, OUTAGE = "lost", "outage"


class _Caller(threading.local):
    """Who calls Redis: a thread of a process, with all its workbenches, one after the other.

    Redis remembers each caller's last call of a run (`seq:`), so callers must be few; and takes a
    lower number for a call repeated, so no two may call by turns under one name, as threads do.
    """

    def __init__(self) -> None:
        self._process = 0
        self._name = ""
        self._calls = 0

    def next(self) -> tuple[str, int]:
        """Its name, and a number above all that it has had, whatever they were for."""
        if self._process != os.getpid():
            # a process's number may be given to another one later, so it gets a name of its own
            self._process, self._name, self._calls = os.getpid(), uuid.uuid4().hex, 0
        self._calls += 1
        return self._name, self._calls


_caller = _Caller()


class BatchCounts:
    """The numbers of a workbench, and which of them Redis has not got yet; used by one thread.

    Of two for one run in the same thread the earlier one must be out of use.
    """

    def __init__(self) -> None:
        self._call: tuple[str, int] = ("", 0)
        self._sent: dict[str, float] | None = None
        self._added: dict[str, float] = defaultdict(float)

    def committed(self, phase: str, seconds: float) -> None:
        """Count a batch."""
        self._added[f"batches:{phase}"] += 1
        self._added[f"seconds:{phase}"] += seconds
        edge = next((edge for edge in EDGES if seconds <= edge), None)
        if edge is not None:
            self._added[f"upto:{phase}:{edge:g}"] += 1

    def failed(self, code: str) -> None:
        """Count a try that was rolled back."""
        self._added[f"failed:{code}"] += 1

    def flush(self, checkpoint: Checkpoint, run: str) -> None:
        """Send what Redis has not got; an unanswered call is repeated as it was."""
        if self._sent is None:
            if not self._added:
                return
            self._sent, self._added = self._added, defaultdict(float)
            self._call = _caller.next()
        if checkpoint.count(run, *self._call, self._sent):
            self._sent = None
