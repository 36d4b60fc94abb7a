"""Whether this worker is to stop: a flag that its main process sets and its children see.

Celery waits for running tasks on SIGTERM and does not tell them; with this flag a task finishes the
batch in hand and gives its slice back. The flag is a byte of anonymous memory, mapped before the
fork and shared by it; nothing of it stays behind when a process is killed.
"""

from __future__ import annotations

import mmap

_flag = mmap.mmap(-1, 1)


def request() -> None:
    """Ask all of this worker's tasks to end after the batch in hand."""
    _flag[0] = 1


def is_requested() -> bool:
    """True once the worker is to stop."""
    return bool(_flag[0])


def clear() -> None:
    """A worker starts: it is not to stop."""
    _flag[0] = 0
