"""The workbench: all that one process needs to work on one run, made once (setup.py) and kept.

It holds a connection, the job with its parameters, and the statements made for its tables. It is
used by one thread.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import tenacity

from backfill.clock import Clock
from backfill.engine.halving import Halving
from backfill.engine.pace import Pace
from backfill.engine.reading import Reading
from backfill.engine.removal import Removal
from backfill.engine.sizing import BatchSizer
from backfill.engine.transform import Memory, PythonTransform
from backfill.engine.write import Writer
from backfill.errors import UnreachableError
from backfill.job import Call, Job, Options, RowFactory
from backfill.job.declaration import Declaration
from backfill.job.secret import Secrets
from backfill.model import BatchInfo, Counts, RunInfo
from backfill.pg import catalog
from backfill.pg.connect import Connection, Limits
from backfill.pg.keyset import Keyset
from backfill.pg.ledger import Ledger, Run
from backfill.pg.query import QuerySql
from backfill.pg.slices import Slice
from backfill.pg.values import ValueTexts
from backfill.settings import EngineSettings

#: Told of the named points of a batch, at which the tests kill the process.
Probe = Callable[[str], None]


def no_probe(_: str) -> None:
    """In production nothing happens at the named points."""


#: How long a lost connection is tried again before the work is given up for now.
RECONNECT_SECONDS = 5.0


class Observer(Protocol):
    """Is told what happened after it was committed; whatever it does, the work goes on."""

    def batch_committed(self, bench: Bench, info: BatchInfo, held: Slice, added: Counts) -> None:
        """A batch took effect; `held` has the slice's counts after it."""

    def batch_failed(self, bench: Bench, code: str | None) -> None:
        """A batch was rolled back, and is tried again: its SQLSTATE; None: it was cut off."""

    def outage(self, bench: Bench) -> None:
        """The transform says that the world outside is away."""


class SilentObserver:
    """Watches nothing."""

    def batch_committed(self, bench: Bench, info: BatchInfo, held: Slice, added: Counts) -> None:
        """Do nothing."""

    def batch_failed(self, bench: Bench, code: str | None) -> None:
        """Do nothing."""

    def outage(self, bench: Bench) -> None:
        """Do nothing."""


@dataclass(slots=True)
class Watched:
    """When this process last looked what it is to obey; seconds of the monotonic clock.

    Attributes:
        since: it has looked regularly since then.
        at: it looked last.
        others_at: it last looked whether another session waits for a lock of ours.
    """

    since: float = float("-inf")
    at: float = float("-inf")
    others_at: float = float("-inf")


def _no_source() -> Connection:
    raise AssertionError("the source is read through the connection that writes")


def holder_name() -> str:
    """Who holds a slice: host, process and thread; shown to people."""
    return f"{socket.gethostname()}:{os.getpid()}.{threading.get_native_id()}"


@dataclass(slots=True, kw_only=True)
class Bench:
    """See the module.

    Attributes:
        removal: deletes from the source what was inserted; None: it stays there.
        query: what gives the rows of the source's table that are ours; None: the table does.
        columns: those that a Python transform is given; None when PostgreSQL computes.
        reading: how rows are read without locks; None: they are locked when they are read.
        after_rewalk: the keyset with the quarantined keys of a slice left out, for its next pass.
        reads_wal: how far the server's WAL has come can be read, so batches have a budget of it.
        asks_for_signals: the settings name signals, so a run that nobody measures stops.
        max_slots: slices of all runs that this database lets be held at once; None: any number.
        on_tune: called with the new options when they have changed.
        source_conn: to the source's database, where it is not the one that is written; and where
            nothing of the source can be locked, so that the lease is renewed while a page is read.
        control: what live.py remembers between two looks at the ledger.
        is_unconfirmed: a commit was not confirmed by a synchronous standby, and nobody is told yet.
        told_unconfirmed_at: when somebody was, on the monotonic clock.
    """

    conn: Connection
    ledger: Ledger
    run: Run
    declaration: Declaration
    job: Job
    options: Options
    source: catalog.Relation
    keyset: Keyset
    after_rewalk: Keyset
    writer: Writer
    removal: Removal | None
    query: QuerySql | None
    columns: tuple[str, ...] | None
    reading: Reading | None
    rows: RowFactory | None
    transform: PythonTransform | None
    texts: ValueTexts
    arguments: Mapping[str, Any]
    settings: EngineSettings
    clock: Clock
    pace: Pace
    sizer: BatchSizer
    observer: Observer = field(default_factory=SilentObserver)
    holder: str = field(default_factory=holder_name)
    halving: Halving = field(default_factory=Halving)
    memory: Memory = field(default_factory=Memory)
    stopping: Callable[[], bool] = lambda: False
    probe: Probe = no_probe
    since_heartbeat: float = 0.0
    reads_wal: bool = False
    asks_for_signals: bool = False
    max_slots: int | None = None
    on_tune: Callable[[Options], None] = lambda _: None
    control: Watched = field(default_factory=Watched)
    is_unconfirmed: bool = False
    told_unconfirmed_at: float = float("-inf")
    connect: Callable[[], Connection] | None = None
    source_conn: Connection | None = None
    connect_source: Callable[[], Connection] = _no_source

    def reconnect_if_closed(self) -> None:
        """Open a new connection in place of a broken one, trying for a few seconds.

        Raises:
            UnreachableError: the server does not come back in that time.
        """
        if self.connect is None or not (self.conn.closed or self.reader.closed):
            return
        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(UnreachableError),
            stop=tenacity.stop_after_delay(RECONNECT_SECONDS),
            wait=tenacity.wait_random_exponential(multiplier=0.05, max=0.5),
            sleep=self.clock.sleep,
            reraise=True,
        ):
            with attempt:
                if self.conn.closed:
                    self.conn = self.connect()
                if self.source_conn is not None and self.source_conn.closed:
                    self.source_conn = self.connect_source()
        self.texts = self.texts.on(self.conn)

    def hear_unconfirmed(self) -> None:
        """A batch holds on this server alone: somebody ended the wait for its standby."""
        self.is_unconfirmed = True

    def close(self) -> None:
        """Close its connections."""
        self.conn.close()
        if self.source_conn is not None:
            self.source_conn.close()

    def tune(self, options: Mapping[str, Any], *, speed: float) -> None:
        """Obey these options, as the ledger keeps them, and this speed from the next batch on.

        Raises:
            BackfillError: a newer version wrote options that this one does not know.
        """
        is_tuned = options != self.run.options
        if not is_tuned and speed == self.run.speed:
            return
        parsed = Options.from_json(options) if is_tuned else self.options
        self.run = replace(self.run, options=options, speed=speed)
        self.options = parsed
        self.pace.tune(parsed, speed=speed)
        if is_tuned:
            self.sizer.tune(parsed)
            self.on_tune(parsed)

    @property
    def reader(self) -> Connection:
        """Where the source is read: its keys, and its rows without locks."""
        return self.source_conn or self.conn

    @property
    def secrets(self) -> Secrets:
        """Made anew when it is asked for, which only errors do."""
        return self.declaration.secrets(self.arguments)

    @property
    def limits(self) -> Limits:
        return Limits(
            lock_timeout_seconds=self.options.lock_timeout_seconds,
            statement_timeout_seconds=self.options.statement_timeout_seconds,
        )

    @property
    def checks_completion(self) -> bool:
        """Only a `todo` tells a row that is done; what Call does is not seen in its rows."""
        declaration = self.declaration
        return declaration.source.todo is not None and not isinstance(declaration.target, Call)


def run_info(run: Run, *, counts: Counts | None = None) -> RunInfo:
    """The run as a job's own code sees it."""
    return RunInfo(
        id=run.id,
        job=run.job,
        database=str(run.options.get("database", "default")),
        params=dict(run.params),
        state=run.run_state,
        counts=counts or Counts(),
        created_at=run.created_at,
    )
