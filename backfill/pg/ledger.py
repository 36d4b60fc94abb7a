"""The ledger: which one it is, and what it says of runs, pauses, events, quarantine and totals.

Everything here reads, but for `add_event` (I7). Functions are handed a connection and never commit;
changes.py has those that change a run, slices.py those for slices.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, LiteralString, cast

import structlog
from psycopg import sql
from psycopg.rows import class_row, dict_row
from psycopg.types.json import Jsonb

from backfill.errors import RefusedError, UsageError
from backfill.events import LEVELS, Event, without_keys
from backfill.model import LIVE, Counts, RunState
from backfill.pg.columns import columns_of
from backfill.pg.connect import Connection
from backfill.pg.install import VERSION, require_version
from backfill.pg.storable import storable, storable_json

log = structlog.get_logger("backfill")


@lru_cache(maxsize=256)
def _composed(text: LiteralString, schema: str) -> sql.SQL:
    return sql.SQL(sql.SQL(text).format(s=sql.Identifier(schema)).as_string(None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Which ledger: its schema's name, and the identity that travels in tasks and Redis keys."""

    schema: str
    id: str

    def q(self, text: LiteralString) -> sql.SQL:
        """The statement with `{s}` replaced by the schema's name."""
        return _composed(text, self.schema)


def open_ledger(conn: Connection, *, schema: str) -> Ledger:
    """Find the ledger and see that this code understands it.

    Raises:
        LedgerError: it is not installed, not ours to read, older than this code, or newer
            and changed in what this code uses.
    """
    require_version(conn, schema=schema)
    row = conn.execute(_composed("SELECT id::text FROM {s}.ledger", schema)).fetchone()
    return Ledger(schema=schema, id=cast("tuple[str]", row)[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedSource:
    """The source's table and key, as they were resolved when the run was enqueued."""

    table: str
    name: str
    key: tuple[str, ...]
    key_types: tuple[str, ...]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ResolvedSource:
        return cls(
            table=value["table"],
            name=value["name"],
            key=tuple(value["key"]),
            key_types=tuple(value["key_types"]),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "table": self.table,
            "name": self.name,
            "key": list(self.key),
            "key_types": list(self.key_types),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run as the ledger has it; times are aware.

    Attributes:
        speed: the share of its full speed at which signals let it work now.
        from_key, to_key: its first key, and the first beyond it; empty: there is one, untold here.
        row_limit: so many rows it takes at most.
    """

    id: str
    job: str
    job_version: int
    fingerprint: str
    declaration: Mapping[str, Any]
    params: Mapping[str, Any]
    options: Mapping[str, Any]
    executor: str
    requested_by: str
    source: Mapping[str, Any]
    state: str
    horizon: Sequence[str] | None
    barrier: Sequence[str] | None
    barrier_until: datetime | None
    began: bool
    frontier: Sequence[str] | None
    frontier_done: bool
    slices: int
    passes: int
    total_rows: int | None
    total_is_exact: bool
    failure: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    speed: float = 1.0
    from_key: Sequence[str] | None = None
    to_key: Sequence[str] | None = None
    row_limit: int | None = None
    needs_version: int = VERSION

    @property
    def run_state(self) -> RunState:
        return RunState(self.state)

    def require_code(self) -> None:
        """See that this code can work on it.

        Raises:
            RefusedError: it uses what came with a later version.
        """
        if self.needs_version > VERSION:
            raise RefusedError(
                f"run {self.id} uses what came with version {self.needs_version} of the ledger,"
                f" and this program's is {VERSION}",
                remedy="Upgrade the package backfill here; newer workers go on with it meanwhile.",
            )

    @property
    def resolved(self) -> ResolvedSource:
        return ResolvedSource.from_json(self.source)


_RUN = columns_of(Run)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """One cause for which a run is paused."""

    run: str
    cause: str
    reason: str
    ends: str
    caused_by: str
    since: datetime


def get_run(conn: Connection, ledger: Ledger, run: str, *, lock: bool = False) -> Run:
    """Read a run; with `lock`, inside an open transaction, hold its row (NO KEY UPDATE).

    Raises:
        UsageError: there is no such run.
    """
    text: LiteralString = f"SELECT {_RUN} FROM {{s}}.run WHERE id = %s"
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        found = cursor.execute(
            ledger.q(text + " FOR NO KEY UPDATE" if lock else text), [run]
        ).fetchone()
    if found is None:
        raise UsageError(f"there is no run {run!r}", remedy="`backfill status` lists the runs.")
    return found


def list_runs(conn: Connection, ledger: Ledger, *, limit: int = 50) -> list[Run]:
    """The newest runs, live ones first."""
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        return cursor.execute(
            ledger.q(
                f"SELECT {_RUN}"
                " FROM {s}.run ORDER BY state = ANY(%s) DESC, created_at DESC LIMIT %s"
            ),
            [[str(state) for state in LIVE], limit],
        ).fetchall()


def failed_runs(conn: Connection, ledger: Ledger) -> list[Run]:
    """Those that have failed and are the newest of their job, the newest first."""
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        return cursor.execute(
            ledger.q(
                "SELECT * FROM (SELECT DISTINCT ON (job)"
                f" {_RUN} FROM {{s}}.run ORDER BY job, created_at DESC) AS newest"
                " WHERE state = 'failed' ORDER BY created_at DESC"
            )
        ).fetchall()


def live_runs(conn: Connection, ledger: Ledger, *, lock: bool = False) -> list[Run]:
    """Every live run, oldest first; with `lock`, held as by `get_run`, in their ids' order."""
    text: LiteralString = f"SELECT {_RUN} FROM {{s}}.run WHERE state = ANY(%s) ORDER BY "
    text += "id FOR NO KEY UPDATE" if lock else "created_at"
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        return cursor.execute(ledger.q(text), [[str(state) for state in LIVE]]).fetchall()


def find_run(conn: Connection, ledger: Ledger, text: str | None) -> Run:
    """The run that a user means: an id, a unique prefix, a job's name (its latest run), or nothing.

    Nothing serves when exactly one run is live.

    Raises:
        UsageError: none fits, or more than one.
    """
    if text is None:
        live = live_runs(conn, ledger)
        if len(live) == 1:
            return live[0]
        if not live:
            raise UsageError(
                "no run is live, so say which one you mean",
                remedy="`backfill status` lists the runs; give one's id or a job's name.",
            )
        raise UsageError(
            f"{len(live)} runs are live: {', '.join(run.id for run in live)}",
            remedy="Say which one you mean.",
        )
    with conn.cursor(row_factory=class_row(Run)) as cursor:
        runs = cursor.execute(
            ledger.q(
                f"SELECT {_RUN}"
                " FROM {s}.run WHERE id = %(text)s OR job = %(text)s"
                " OR starts_with(id, %(text)s) ORDER BY created_at DESC LIMIT 20"
            ),
            {"text": text},
        ).fetchall()
    exact = [run for run in runs if run.id == text] or [run for run in runs if run.job == text]
    if exact:
        return exact[0]
    if len(runs) == 1:
        return runs[0]
    if runs:
        raise UsageError(
            f"{text!r} fits several runs: {', '.join(run.id for run in runs)}",
            remedy="Write one more character of the one you mean.",
        )
    raise UsageError(f"there is no run {text!r}", remedy="`backfill status` lists the runs.")


def add_event(
    conn: Connection,
    ledger: Ledger,
    event: Event,
    *,
    run: str | None,
    caused_by: str,
    **detail: object,
) -> None:
    """Record an event, and log it; in the transaction of the change that it tells of, if any.

    The keys that it names are in the ledger alone: a key is a row's value, and logs go far.
    """
    detail = {name: storable_json(value) for name, value in detail.items()}
    caused_by = storable(caused_by)
    level = LEVELS.get(event, logging.INFO)
    log.log(level, event, run=run, caused_by=caused_by, **without_keys(event, detail))
    conn.execute(
        ledger.q("INSERT INTO {s}.event (run, name, caused_by, detail) VALUES (%s, %s, %s, %s)"),
        [run, str(event), caused_by, Jsonb(detail)],
    )


def pauses(conn: Connection, ledger: Ledger, run: str | None = None) -> list[Pause]:
    """The causes for which a run (or any run) is paused, oldest first."""
    with conn.cursor(row_factory=class_row(Pause)) as cursor:
        return cursor.execute(
            ledger.q(
                f"SELECT {columns_of(Pause)}"
                " FROM {s}.pause WHERE %(run)s::text IS NULL OR run = %(run)s"
                " ORDER BY since"
            ),
            {"run": run},
        ).fetchall()


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord:
    """One event as the ledger has it."""

    id: int
    run: str | None
    at: datetime
    name: str
    caused_by: str
    detail: Mapping[str, Any]


def events(
    conn: Connection, ledger: Ledger, run: str, *, after: int = 0, limit: int = 1000
) -> list[EventRecord]:
    """A run's events after the given id: the newest `limit` of them, oldest first."""
    with conn.cursor(row_factory=class_row(EventRecord)) as cursor:
        return cursor.execute(
            ledger.q(
                "SELECT * FROM (SELECT id, run, at, name, caused_by, detail FROM {s}.event"
                " WHERE run = %s AND id > %s ORDER BY id DESC LIMIT %s) AS newest ORDER BY id"
            ),
            [run, after, limit],
        ).fetchall()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """A worker process that reported itself."""

    name: str
    version: str
    started_at: datetime
    seen_seconds_ago: float


def workers(conn: Connection, ledger: Ledger, *, within_seconds: float) -> list[WorkerRecord]:
    """Workers that were seen lately."""
    with conn.cursor(row_factory=class_row(WorkerRecord)) as cursor:
        return cursor.execute(
            ledger.q(
                "SELECT name, version, started_at,"
                " extract(epoch FROM clock_timestamp() - seen_at)::float8 AS seen_seconds_ago"
                " FROM {s}.worker WHERE seen_at > clock_timestamp() - make_interval(secs => %s)"
                " ORDER BY name"
            ),
            [within_seconds],
        ).fetchall()


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """A run's slices, summed.

    Attributes:
        held: slices under a lease that has not run out.
        by_phase: how many slices are in each phase.
        progress_at: when one of them last came forward; None: there is none yet.
    """

    counts: Counts
    held: int
    by_phase: Mapping[str, int]
    progress_at: datetime | None


def totals(conn: Connection, ledger: Ledger, run: str) -> Totals:
    """Sum up a run's slices: reads them all, so once a second or so, not once a batch."""
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            ledger.q(
                "SELECT coalesce(sum(paged), 0)::bigint AS paged,"
                " coalesce(sum(written), 0)::bigint AS written,"
                " coalesce(sum(unchanged), 0)::bigint AS unchanged,"
                " coalesce(sum(skipped), 0)::bigint AS skipped,"
                " coalesce(sum(quarantined), 0)::bigint AS quarantined,"
                " coalesce(sum(suppressed), 0)::bigint AS suppressed,"
                " coalesce(sum(gone), 0)::bigint AS gone,"
                " coalesce(sum(deferred), 0)::bigint AS deferred,"
                " count(*) FILTER (WHERE lease_until > clock_timestamp()) AS held,"
                " count(*) FILTER (WHERE phase = 'walk') AS walk,"
                " count(*) FILTER (WHERE phase = 'sweep') AS sweep,"
                " count(*) FILTER (WHERE phase = 'verify') AS verify,"
                " count(*) FILTER (WHERE phase = 'done') AS done,"
                " max(progress_at) AS progress_at"
                " FROM {s}.slice WHERE run = %s"
            ),
            [run],
        ).fetchone()
    values = cast("dict[str, Any]", row)
    return Totals(
        progress_at=values.pop("progress_at"),
        held=values.pop("held"),
        by_phase={phase: values.pop(phase) for phase in ("walk", "sweep", "verify", "done")},
        counts=Counts(**values),
    )
