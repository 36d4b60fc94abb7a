"""Doctor: workers, as the ledgers have seen them and as they answer over the broker."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, suppress
from importlib.metadata import version

import psycopg

from backfill.errors import BackfillError
from backfill.operate.doctor.outcome import Notebook
from backfill.pg.connect import connect
from backfill.pg.ledger import Ledger, WorkerRecord, workers
from backfill.project import Project

#: A worker tells its ledgers every two seconds that it is there (`engine.reconcile_seconds`).
SEEN_SECONDS = 10.0
#: For answers over the broker.
ANSWER_SECONDS = 1.5


def examine_workers(project: Project, ledgers: Mapping[str, Ledger], *, can_send: bool) -> Notebook:
    """Look for workers: those seen by each ledger, and whether they can be reached.

    Args:
        ledgers: by the database's name.
        can_send: the broker takes messages.
    """
    notes = Notebook("workers")
    ours = version("backfill")
    seen: dict[str, WorkerRecord] = {}
    for name, ledger in ledgers.items():
        with (
            suppress(BackfillError, psycopg.Error),  # its own area says why
            closing(connect(project.settings.database(name).url)) as conn,
        ):
            here = workers(conn, ledger, within_seconds=SEEN_SECONDS)
            seen |= {worker.name: worker for worker in here}
            if here:
                names = ", ".join(f"{worker.name} ({worker.version})" for worker in here)
                notes.ok("seen", f"database {name}: {len(here)} at work or ready: {names}")
            else:
                notes.warning(
                    "none",
                    f"database {name}: no worker has been seen in the last {SEEN_SECONDS:.0f} s",
                    "Start one with `backfill worker`.",
                )
    others = sorted({worker.version for worker in seen.values()} - {ours})
    if others:
        notes.warning(
            "versions",
            f"workers have version {', '.join(others)} of backfill, and this program {ours}",
            "Restart the workers after an upgrade, with the same version everywhere.",
        )
    if can_send and seen:
        _answers(notes, project, set(seen))
    return notes


def _answers(notes: Notebook, project: Project, seen: set[str]) -> None:
    """A worker on another Redis looks alive to the ledger, and never gets a message from here."""
    from backfill.worker.app import app_of  # Celery takes a while to import

    app = app_of(project)
    try:
        answered = {
            name for answer in app.control.ping(timeout=ANSWER_SECONDS) or () for name in answer
        }
    except Exception as error:  # noqa: BLE001 - whatever kombu raises, it is the broker's
        notes.error(
            "broker",
            f"the workers cannot be asked over Redis: {type(error).__name__}",
            "Look at what is told of Redis.",
        )
        return
    finally:
        app.close()
    silent = sorted(seen - answered)
    if silent:
        notes.warning(
            "silent",
            f"{', '.join(silent)}: seen by the ledger, and no answer over this Redis within"
            f" {ANSWER_SECONDS:g} s",
            "See that all workers have the same Redis and the same queue as this project; one that"
            " is busy may answer late.",
        )
    else:
        notes.ok("answers", f"all {len(seen)} answer over this Redis")
