"""`backfill db`: the ledger in the databases."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from backfill.cli.options import Assignment, Whole, collected, params_option, yes_option
from backfill.cli.session import Session, pass_session
from backfill.cli.tell import say_done
from backfill.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from backfill.job.declaration import Declaration
    from backfill.project import Project


@click.group()
def db() -> None:
    """Install and upgrade the ledger, and print rights on it."""


@db.command()
@click.option(
    "--sql",
    "as_sql",
    is_flag=True,
    help="Print the SQL, and connect to nothing; for a database without a ledger, unless --since.",
)
@click.option(
    "--since",
    type=Whole(0),
    metavar="VERSION",
    help="With --sql: for a ledger of this version; its table ledger has it.",
)
@click.option("--database", metavar="NAME", help="This database only; else all of the project.")
@yes_option
@pass_session
def upgrade(
    session: Session, *, as_sql: bool, since: int | None, database: str | None, yes: bool
) -> None:
    """Bring the ledger to this program's version.

    In every database of the project, source_only ones excepted, unless one is named. A role that
    may not create schemas prints the SQL with --sql, for a DBA to run: all of it, or with --since
    what an installed ledger lacks.
    """
    from backfill.pg.install import upgrade_sql

    settings = session.project.settings
    names = [database] if database is not None else list(settings.ledgers)
    for name in names:
        settings.database(name)  # a misspelt one is said before anything is done
    if as_sql:
        if yes:
            raise UsageError("--sql changes nothing, so there is nothing to say --yes to")
        click.echo(upgrade_sql(schema=settings.schema, since=since or 0), nl=False)
        return
    if since is not None:
        raise UsageError("--since belongs to --sql: an upgrade sees for itself what is installed")
    # a variable that is missing, or a no, is met before the first is written
    for name in names:
        _ = settings.database(name).url
    for name in names:
        session.confirm_write(name, yes=yes)
    for name in names:
        _upgrade(session, name)


def _upgrade(session: Session, database: str) -> None:
    from backfill.pg.connect import connect
    from backfill.pg.install import upgrade as install
    from backfill.url import safe_url

    settings = session.project.settings
    url = settings.database(database).url
    conn = connect(url)
    try:
        before, after = install(conn, schema=settings.schema)
    finally:
        conn.close()
    if before == after:
        done = f"has version {after}; there is nothing to do"
    elif before == 0:
        done = f"installed in schema {settings.schema}, version {after}"
    else:
        done = f"upgraded from version {before} to {after}"
    say_done(f"{safe_url(url)} (database {database}): ledger {done}")


@db.command("grants")
@click.argument("role", metavar="ROLE")
@click.option(
    "--job",
    "jobs",
    multiple=True,
    metavar="JOB",
    help="For this job only; may be repeated. Else for all jobs of the database.",
)
@params_option
@click.option(
    "--ledger-owner",
    metavar="OWNER",
    help="Let the role use what this owner of the ledger adds to it in upgrades.",
)
@click.option(
    "--database",
    metavar="NAME",
    help="Where the SQL is to be run; else the one that --job works on, or the default one.",
)
@pass_session
def db_grants(
    session: Session,
    *,
    role: str,
    jobs: tuple[str, ...],
    params: tuple[Assignment, ...],
    ledger_owner: str | None,
    database: str | None,
) -> int:
    """Print the SQL for ROLE's least rights in a database.

    It changes nothing. A job that copies rows into another database needs rights in both, which are
    printed one by one. Exit code 1: a job's tables could not be looked at.
    """
    from backfill.operate.grants import grants_sql

    project = session.project
    if database is not None:
        project.settings.database(database)
    if params and len(jobs) != 1:
        raise UsageError("-p gives a parameter of one job", remedy="Name that job with --job.")
    named = [project.declaration(job) for job in jobs]
    database = _one_database(project, named, database)
    declarations = named or _jobs_of(session, database)
    values = declarations[0].parse_params(collected(params, what="parameter")) if params else {}
    done = grants_sql(
        project,
        role,
        database=database,
        jobs=declarations,
        params=values,
        owner=ledger_owner,
    )
    for line in done.lines:
        click.echo(line)
    for job, reason in done.left_out.items():
        click.echo(f"warning: job {job} is left out: {reason}", err=True)
    return ExitCode.FAILED if done.left_out else ExitCode.DONE


def _one_database(project: Project, jobs: Sequence[Declaration], named: str | None) -> str:
    """The database in which the SQL is to be run: psql is connected to one.

    Raises:
        UsageError: there is none of that name, or a job has nothing to do with it.
    """
    from backfill.operate.grants import databases_of

    touched: dict[str, None] = {}
    here = None if named is None else project.settings.database(named).name
    for job in jobs:
        its = databases_of(project, job)
        if here is not None and here not in its:
            raise UsageError(
                f"job {job.name} has nothing to do with database {here}",
                remedy=f"It works on {' and '.join(dict.fromkeys(its))}.",
            )
        touched |= dict.fromkeys(its)
    if here is not None:
        return here
    if len(touched) > 1:
        raise UsageError(
            f"rights are needed in {len(touched)} databases: {', '.join(touched)}",
            remedy="Print them one by one, with --database.",
        )
    return next(iter(touched), None) or project.settings.database().name


def _jobs_of(session: Session, database: str) -> list[Declaration]:
    """The project's jobs that read or write this database; broken modules are named."""
    from backfill.job.declaration import declaration_of
    from backfill.operate.grants import databases_of

    registry = session.project.registry
    for module, error in registry.broken.items():
        click.echo(f"warning: broken: {module}: {error}", err=True)
    found = [declaration_of(job) for job in registry.jobs.values()]
    here = []
    for one in found:
        with suppress(UsageError):  # a database that there is not: `doctor` and `check` say so
            if database in databases_of(session.project, one):
                here.append(one)
    return here
