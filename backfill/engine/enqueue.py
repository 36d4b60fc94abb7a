"""Writing a new run into the ledger, after the preflight."""

from __future__ import annotations

import getpass
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace

import psycopg

from backfill.engine.lifecycle import START_ALL, hold_back
from backfill.engine.preflight import Preflight, preflight
from backfill.errors import RefusedError
from backfill.events import Event
from backfill.job import Bounds, Options
from backfill.job.declaration import Declaration, bind
from backfill.model import Key, RunState
from backfill.pg.bounds import Resolved, resolve
from backfill.pg.changes import claim_writes, insert_run
from backfill.pg.connect import Connection, refuse_standby_source, transaction
from backfill.pg.control import stopped
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run that may be written: the job is checked against the database, its id is chosen."""

    id: str
    declaration: Declaration
    params: Mapping[str, object]
    options: Options
    found: Preflight
    bounds: Resolved


def prepare(
    conn: Connection,
    declaration: Declaration,
    *,
    params: Mapping[str, object],
    options: Options | None,
    bounds: Bounds | None = None,
    environ: Mapping[str, str] = os.environ,
    source_conn: Connection | None = None,
) -> Prepared:
    """Check the job against the database; nothing is written. No transaction may be open.

    Args:
        source_conn: to the source's database, where it is not the one that is written.

    Raises:
        BackfillError: the preflight refuses, a parameter or bound is wrong, or the source's
            database is a standby.
    """
    values = declaration.complete_params(params)
    if source_conn is not None:
        refuse_standby_source(source_conn)
    job = bind(declaration.job_class, params, environ=environ)
    arguments = declaration.sql_arguments(job)
    found = preflight(
        conn,
        declaration,
        arguments=arguments,
        options=options,
        source_conn=source_conn,
    )
    return Prepared(
        id=new_run_id(declaration.name),
        declaration=declaration,
        params=declaration.params_to_json(values),
        options=options or declaration.options,
        found=found,
        bounds=resolve(
            source_conn or conn,
            found.source,
            bounds or Bounds(),
            keyset=found.keyset,
            arguments=arguments,
        ),
    )


def write_run(
    conn: Connection, ledger: Ledger, prepared: Prepared, *, executor: str, by: str
) -> None:
    """Write a queued run, what it claims, and the event. A transaction must be open.

    While the red button is pressed, it is born paused; the transaction locks the ledger's row for
    that, so it must not have locked a run before.

    Raises:
        RefusedError: another live run writes the same columns.

    Raises psycopg's UniqueViolation of `run_one_live_per_job` when the job has a live run.
    """
    declaration, found, bounds = prepared.declaration, prepared.found, prepared.bounds
    button = stopped(conn, ledger, lock=True)
    insert_run(
        conn,
        ledger,
        {
            "id": prepared.id,
            "job": declaration.name,
            "job_version": declaration.version,
            "fingerprint": declaration.fingerprint(),
            "declaration": declaration.describe(),
            "params": prepared.params,
            "options": prepared.options.to_json(),
            "executor": executor,
            "requested_by": by,
            "source": found.source.to_json(),
            "from_key": _listed(bounds.from_key),
            "to_key": _listed(bounds.to_key),
            "row_limit": bounds.limit,
        },
    )
    claim_writes(conn, ledger, prepared.id, found.relation, found.columns)
    add_event(
        conn,
        ledger,
        Event.RUN_ENQUEUED,
        run=prepared.id,
        caused_by=by,
        job=declaration.name,
        database=prepared.options.database,
        table=found.source.table,
        params=prepared.params,
        **_told(bounds),
    )
    hold_back(conn, ledger, prepared.id, button)


def _listed(key: Key | None) -> list[str] | None:
    return None if key is None else list(key)


def _told(bounds: Resolved) -> dict[str, object]:
    """What an event says of bounds: it is logged, too, so no keys, which are values of rows."""
    told: dict[str, object] = {}
    if bounds.from_key is not None or bounds.to_key is not None:
        told["bounded"] = True
    if bounds.limit is not None:
        told["limit"] = bounds.limit
    return told


def create_run(
    conn: Connection,
    ledger: Ledger,
    declaration: Declaration,
    *,
    params: Mapping[str, object],
    options: Options | None,
    executor: str,
    by: str,
    bounds: Bounds | None = None,
    environ: Mapping[str, str] = os.environ,
    source_conn: Connection | None = None,
) -> tuple[Run, Preflight]:
    """Check the job against the database and write a queued run.

    Raises:
        BackfillError: the preflight refuses, a parameter or bound is wrong, another live run is in
            the way.
    """
    prepared = prepare(
        conn,
        declaration,
        params=params,
        options=options,
        bounds=bounds,
        environ=environ,
        source_conn=source_conn,
    )
    try:
        with transaction(conn):
            write_run(conn, ledger, prepared, executor=executor, by=by)
    except psycopg.errors.UniqueViolation as error:
        raise _live_run(conn, ledger, declaration) from error
    run = get_run(conn, ledger, prepared.id)
    button = stopped(conn, ledger) if run.run_state is RunState.PAUSED else None
    if button is None:
        return run, prepared.found
    waits = f"{button.told}; it waits for {START_ALL}"
    return run, replace(prepared.found, warnings=(*prepared.found.warnings, waits))


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
