"""Whether this worker is to stop: a flag that its main process sets and its children see.

Celery waits for running tasks on SIGTERM and does not tell them; with this flag a task finishes the
batch in hand and gives its slice back. The flag lives in shared memory made before the fork.
"""

from __future__ import annotations

import multiprocessing

_flag = multiprocessing.RawValue("b", 0)


def request() -> None:
    """Ask all of this worker's tasks to end after the batch in hand."""
    _flag.value = 1


def is_requested() -> bool:
    """True once the worker is to stop."""
    return bool(_flag.value)


def clear() -> None:
    """A worker starts: it is not to stop."""
    _flag.value = 0
