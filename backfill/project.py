"""A project, opened: its settings, its jobs, its databases with their ledgers.

What the command line, the workers and the public functions share; each makes its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from backfill.checkpoint import Checkpoint
from backfill.clock import Clock
from backfill.engine.bench import Bench, Observer
from backfill.engine.pace import Limiter, Pace
from backfill.engine.setup import make_bench
from backfill.errors import UsageError
from backfill.job import Job, Options
from backfill.job.declaration import Declaration, declaration_of
from backfill.job.registry import Registry
from backfill.job.registry import load as load_jobs
from backfill.pg.connect import Connection, connect
from backfill.pg.ledger import Ledger, Run, open_ledger
from backfill.settings import Settings, find_project, read_environment
from backfill.settings import load as load_settings
from backfill.watch.gallery import Gallery
from backfill.watch.progress import Progress
from backfill.watch.progress import read as read_progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """A database and its ledger, with an open connection that the holder closes.

    Attributes:
        application_name: of further connections.
    """

    database: str
    url: str
    conn: Connection
    ledger: Ledger
    application_name: str = "backfill"

    def connect(self) -> Connection:
        """A further connection to the same database."""
        return connect(self.url, application_name=self.application_name)


class Project:
    """The project that commands and workers act in.

    Args:
        settings: as read at the edge.
        environ: the process's environment with the project's `.env` below it.
    """

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self.settings = settings
        self.environ = environ

    @classmethod
    def find(cls, explicit: Path | None = None) -> Project:
        """The project named: here, else by BACKFILL_PROJECT; else the one around this folder.

        Raises:
            ProjectError: its settings cannot be used.
        """
        named = os.environ.get("BACKFILL_PROJECT")
        root = find_project(explicit=explicit or (Path(named) if named else None))
        return cls(load_settings(root, os.environ), read_environment(root, os.environ))

    @cached_property
    def registry(self) -> Registry:
        """The project's jobs; imports their modules when first asked for.

        Raises:
            ProjectError: the setup hook fails.
        """
        return load_jobs(
            self.settings.jobs, project=self.settings.project, setup=self.settings.setup
        )

    def declaration(self, job: str) -> Declaration:
        """A job by its name.

        Raises:
            UsageError, ProjectError: there is none, or its module is broken.
        """
        return declaration_of(self.registry.find(job))

    def open(self, database: str = "default") -> Desk:
        """Connect to a database and find its ledger.

        Raises:
            UsageError: the project has no database of that name, or it is only read.
            UnreachableError: it does not answer.
            LedgerError: the ledger is not installed, or of another version.
        """
        settings = self.settings.database(database)
        if settings.source_only:
            raise UsageError(
                f"database {settings.name} is only read (source_only = true): no run lives there",
                remedy="Runs live in the database that they write.",
            )
        url = settings.url
        conn = connect(url)
        try:
            ledger = open_ledger(conn, schema=self.settings.schema)
        except BaseException:
            conn.close()
            raise
        return Desk(database=database, url=url, conn=conn, ledger=ledger)

    @contextmanager
    def source(self, declaration: Declaration, options: Options) -> Iterator[Connection | None]:
        """A connection to the source's database, where it is not the one that is written.

        Raises:
            UsageError, UnreachableError: as `open`.
        """
        connect_source = self.connects_source(declaration, options)
        if connect_source is None:
            yield None
            return
        with closing(connect_source()) as conn:
            yield conn

    def connects_source(
        self, declaration: Declaration, options: Options
    ) -> Callable[[], Connection] | None:
        """How to connect to it; None: it is the one that is written."""
        if declaration.target_database is None:
            return None
        url = self.settings.database(options.database).url
        return lambda: connect(url)

    def checkpoint(self, ledger: Ledger) -> Checkpoint | None:
        """The ledger's checkpoint; None when the project names no Redis."""
        url = self.settings.redis_url
        return None if url is None else Checkpoint(url, ledger.id)

    def progress(self, desk: Desk, run_id: str, *, checkpoint: Checkpoint | None) -> Progress:
        """A run's progress now.

        Raises:
            UsageError: there is no such run.
        """
        return read_progress(
            desk.conn,
            desk.ledger,
            run_id,
            checkpoint=checkpoint,
            max_slots=self.settings.database(desk.database).max_slots,
        )

    def gallery(self, database: str) -> Gallery:
        """Pictures of a database's runs, for whoever watches; to be closed.

        Raises:
            UsageError, UnreachableError, LedgerError: as `open`.
        """
        desk = self.open(database)
        desk.conn.close()  # most who watch read Redis alone
        return Gallery(
            desk.database,
            desk.ledger,
            connect=desk.connect,
            checkpoint=self.checkpoint(desk.ledger),
            max_slots=self.settings.database(desk.database).max_slots,
        )

    def bench(
        self,
        desk: Desk,
        run: Run,
        declaration: Declaration,
        *,
        clock: Clock,
        limiter: Limiter,
        observer: Observer | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> Bench:
        """A workbench for a run, with the pace that its options ask for.

        Raises:
            BackfillError: a table is gone, the database does not answer, a secret is missing.
        """
        database = self.settings.database(desk.database)
        return make_bench(
            desk.connect,
            desk.ledger,
            run,
            declaration,
            settings=self.settings.engine,
            clock=clock,
            pace=Pace(clock, Options.from_json(run.options), limiter=limiter),
            observer=observer,
            environ=self.environ,
            stopping=stopping,
            asks_for_signals=any(spec.required for spec in database.signals.values()),
            max_slots=database.max_slots,
            connect_source=self.connects_source(declaration, Options.from_json(run.options)),
        )


def job_class_of(job: type[Job] | Job) -> type[Job]:
    """A job's class, from the class itself or an instance."""
    return job if isinstance(job, type) else type(job)
