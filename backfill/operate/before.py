"""What is done with a job before it runs: it is looked at (`check`), and tried (`dry-run`)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime

from backfill.clock import SystemClock
from backfill.engine.check import Report, check
from backfill.engine.checks.scene import count_matching
from backfill.engine.checks.subject import examine
from backfill.engine.dryrun import DryRun, dry_run
from backfill.engine.enqueue import prepare
from backfill.engine.pace import Pace
from backfill.engine.setup import make_bench
from backfill.engine.trial import NAME
from backfill.errors import LedgerError, RefusedError
from backfill.job import Delete, Insert, Options, Update
from backfill.job.declaration import Declaration, bind
from backfill.model import RunState
from backfill.pg.connect import connect
from backfill.pg.ledger import Ledger, Run, open_ledger
from backfill.project import Project

#: Targets whose effect is in the database, and so is rolled back.
ROLLED_BACK: tuple[type[object], ...] = (Update, Insert, Delete)


def check_job(
    project: Project,
    declaration: Declaration,
    *,
    params: Mapping[str, object],
    options: Options,
) -> Report:
    """Find out what speaks against a run of this job; works without a ledger, too.

    Raises:
        UsageError: a parameter is missing or wrong, there is no such database, or the job cannot
            work with the option `lock`.
        UnreachableError: the database does not answer.
    """
    declaration.complete_params(params)
    declaration.reads_unlocked(options, lockable=declaration.source.table is not None)
    job = bind(declaration.job_class, params, environ=project.environ)
    home = project.settings.database(declaration.home(options))
    with closing(connect(home.url)) as conn, project.source(declaration, options) as source_conn:
        ledger: Ledger | LedgerError
        try:
            ledger = open_ledger(conn, schema=project.settings.schema)
        except LedgerError as error:
            ledger = error
        return check(
            conn,
            declaration,
            arguments=declaration.sql_arguments(job),
            options=options,
            ledger=ledger,
            source_conn=source_conn,
        )


def dry_run_job(
    project: Project,
    declaration: Declaration,
    *,
    params: Mapping[str, object],
    options: Options,
    rows: int,
    shown: int,
    with_effects: bool,
) -> DryRun:
    """Try a job in batches that are rolled back; needs no ledger.

    Args:
        rows, shown: at each place, to be measured and to be shown.
        with_effects: also where the job's effect is outside the database.

    Raises:
        BackfillError: the preflight refuses, a parameter is wrong, or the effect would stay.
    """
    if not isinstance(declaration.target, ROLLED_BACK) and not with_effects:
        raise RefusedError(
            f"{declaration.job_class.__name__}: what it does happens outside the database, and"
            " cannot be rolled back",
            remedy="Give --with-effects to let it happen for the rows that are tried.",
        )
    url = project.settings.database(declaration.home(options)).url
    with closing(connect(url)) as conn, project.source(declaration, options) as source_conn:
        prepared = prepare(
            conn,
            declaration,
            params=params,
            options=options,
            environ=project.environ,
            source_conn=source_conn,
        )
        job = bind(declaration.job_class, params, environ=project.environ)
        subject, _ = examine(
            conn, declaration, arguments=declaration.sql_arguments(job), source_conn=source_conn
        )
        matching = None if subject is None else count_matching(source_conn or conn, subject)
    clock = SystemClock()
    bench = make_bench(
        lambda: connect(url),
        Ledger(schema=project.settings.schema, id=""),  # never asked: nothing is recorded
        _run(declaration, prepared.params, options, prepared.found.source.to_json()),
        declaration,
        settings=project.settings.engine,
        clock=clock,
        pace=Pace(clock, options),
        environ=project.environ,
        is_trial=True,
        connect_source=project.connects_source(declaration, options),
    )
    with closing(bench):
        return dry_run(
            bench, rows=rows, shown=shown, matching=matching, warnings=prepared.found.warnings
        )


def _run(
    declaration: Declaration,
    params: Mapping[str, object],
    options: Options,
    source: Mapping[str, object],
) -> Run:
    """A run as the ledger would have it, for a bench that records nothing."""
    return Run(
        id=NAME,
        job=declaration.name,
        job_version=declaration.version,
        fingerprint=declaration.fingerprint(),
        declaration=declaration.describe(),
        params=params,
        options=options.to_json(),
        executor="local",
        requested_by=NAME,
        source=source,
        state=str(RunState.RUNNING),
        horizon=None,
        barrier=None,
        barrier_until=None,
        began=True,
        frontier=None,
        frontier_done=False,
        slices=0,
        passes=0,
        total_rows=None,
        total_is_exact=False,
        failure=None,
        created_at=datetime.now(UTC),
        started_at=None,
        finished_at=None,
    )
