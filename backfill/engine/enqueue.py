"""Writing a new run into the ledger, after the preflight."""

from __future__ import annotations

import getpass
import os
import secrets
import socket
from collections.abc import Mapping

import psycopg

from backfill.engine.preflight import Preflight, preflight
from backfill.errors import RefusedError
from backfill.events import Event
from backfill.job import Options
from backfill.job.declaration import Declaration, bind
from backfill.pg.changes import claim_writes, insert_run
from backfill.pg.connect import Connection, transaction
from backfill.pg.ledger import Ledger, Run, add_event, get_run

#: Letters and digits that are not mistaken for each other when read aloud.
_ALPHABET = "23456789abcdefghjkmnpqrstvwxyz"
_SUFFIX_LENGTH = 5


def person() -> str:
    """Who asks: user and host, for the events."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def new_run_id(job: str) -> str:
    """Such as `fill_departure-7f3k2`."""
    return f"{job}-{''.join(secrets.choice(_ALPHABET) for _ in range(_SUFFIX_LENGTH))}"


def create_run(
    conn: Connection,
    ledger: Ledger,
    declaration: Declaration,
    *,
    params: Mapping[str, object],
    options: Options | None,
    executor: str,
    by: str,
    environ: Mapping[str, str] = os.environ,
) -> tuple[Run, Preflight]:
    """Check the job against the database and write a queued run.

    Raises:
        BackfillError: the preflight refuses, a parameter is wrong, another live run is in the way.
    """
    values = declaration.complete_params(params)
    job = bind(declaration.job_class, params, environ=environ)
    found = preflight(conn, declaration, arguments=declaration.sql_arguments(job))
    run_id = new_run_id(declaration.name)
    chosen = options or declaration.options
    try:
        with transaction(conn):
            insert_run(
                conn,
                ledger,
                {
                    "id": run_id,
                    "job": declaration.name,
                    "job_version": declaration.version,
                    "fingerprint": declaration.fingerprint(),
                    "declaration": declaration.describe(),
                    "params": declaration.params_to_json(values),
                    "options": chosen.to_json(),
                    "executor": executor,
                    "requested_by": by,
                    "source": found.source.to_json(),
                },
            )
            claim_writes(conn, ledger, run_id, found.relation, found.columns)
            add_event(
                conn,
                ledger,
                Event.RUN_ENQUEUED,
                run=run_id,
                caused_by=by,
                job=declaration.name,
                database=chosen.database,
                table=found.source.table,
                params=declaration.params_to_json(values),
            )
    except psycopg.errors.UniqueViolation as error:
        raise _live_run(conn, ledger, declaration) from error
    return get_run(conn, ledger, run_id), found


def _live_run(conn: Connection, ledger: Ledger, declaration: Declaration) -> RefusedError:
    row = conn.execute(
        ledger.q(
            "SELECT id, state FROM {s}.run WHERE job = %s AND finished_at IS NULL"
            " ORDER BY created_at DESC LIMIT 1"
        ),
        [declaration.name],
    ).fetchone()
    run, state = row or ("?", "live")
    return RefusedError(
        f"job {declaration.name} has a live run already: {run} ({state})",
        remedy=f"Watch it (backfill watch {run}), resume it (backfill resume {run})"
        f" or end it (backfill cancel {run}).",
    )
