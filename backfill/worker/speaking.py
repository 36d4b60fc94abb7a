"""Lets a worker's log come out in our form: Celery's lines as well as our events."""

from __future__ import annotations

import logging
import sys
from typing import Any

from celery import signals
from celery.apps import worker as celery_worker
from celery.utils.log import get_multiprocessing_logger

from backfill.errors import UsageError
from backfill.streams import is_terminal
from backfill.watch import logs

#: What tells of the connection to Redis, and of nothing that a run or a user's code does.
CONNECTING = ("celery.worker.consumer", "kombu")


def speak_as_we_do() -> None:
    """Let Celery's log come out as ours does (watch/logs.py), before it writes its first line."""
    # what its pool tells: without a handler of its own it would be plain text
    pool = get_multiprocessing_logger()
    logs.take_over(logging.getLogger(), logging.WARNING, calm=CONNECTING)
    logs.take_over(pool, logging.ERROR)
    logging.captureWarnings(True)
    # whoever is connected here keeps Celery from setting up handlers of its own
    signals.setup_logging.connect(_set_up, weak=False)
    if not is_terminal(sys.stdout):
        # "Warm shutdown" and the like, written past every logger; the log has worker.stopped
        celery_worker.safe_say = lambda *_: None


def _set_up(loglevel: int, logfile: str | None, **_: Any) -> None:
    if logfile is not None:
        raise UsageError(
            "a worker writes its log to standard error, and to no --logfile",
            remedy="Redirect standard error.",
        )
    logging.getLogger().setLevel(loglevel)
