"""`backfill db`: the ledger in the databases."""

from __future__ import annotations

import click

from backfill.cli.options import yes_option
from backfill.cli.session import Session, pass_session
from backfill.errors import UsageError


@click.group()
def db() -> None:
    """Install and upgrade the ledger."""


@db.command()
@click.option("--sql", "as_sql", is_flag=True, help="Print the SQL; change nothing, ask nobody.")
@click.option("--database", metavar="NAME", help="This database only; else all of the project.")
@yes_option
@pass_session
def upgrade(session: Session, as_sql: bool, database: str | None, yes: bool) -> None:
    """Bring the ledger to this program's version.

    In every database of the project, unless one is named. A role that may not create schemas
    prints the SQL with --sql, for a DBA to run.
    """
    from backfill.pg.install import upgrade_sql

    settings = session.project.settings
    names = [database] if database is not None else list(settings.databases)
    for name in names:
        settings.database(name)  # a misspelt one is said before anything is done
    if as_sql:
        if yes:
            raise UsageError("--sql changes nothing, so there is nothing to say --yes to")
        click.echo(upgrade_sql(schema=settings.schema), nl=False)
        return
    for name in names:
        _upgrade(session, name, yes=yes)


def _upgrade(session: Session, database: str, *, yes: bool) -> None:
    from backfill.pg.connect import connect
    from backfill.pg.install import upgrade as install
    from backfill.url import safe_url

    settings = session.project.settings
    url = settings.database(database).url
    session.confirm_write(database, yes=yes)
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
    click.echo(f"{safe_url(url)} (database {database}): ledger {done}")
