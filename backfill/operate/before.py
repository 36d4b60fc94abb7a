"""What is done with a job before it runs: looked at (`check`), tried (`dry-run`)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing

from backfill.engine.check import Report, check
from backfill.errors import LedgerError
from backfill.job import Options
from backfill.job.declaration import Declaration, bind
from backfill.pg.connect import connect
from backfill.pg.ledger import Ledger, open_ledger
from backfill.project import Project


def check_job(
    project: Project,
    declaration: Declaration,
    *,
    params: Mapping[str, object],
    options: Options,
) -> Report:
    """Find out what speaks against a run of this job; works without a ledger, too.

    Raises:
        UsageError: a parameter is missing or wrong, or there is no such database.
        UnreachableError: the database does not answer.
    """
    declaration.complete_params(params)
    job = bind(declaration.job_class, params, environ=project.environ)
    with closing(connect(project.settings.database(options.database).url)) as conn:
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
        )
