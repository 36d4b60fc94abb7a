"""`backfill list`: the project's jobs, and what became of each lately."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from backfill.cli.options import json_option
from backfill.cli.session import Session, pass_session
from backfill.errors import BackfillError

if TYPE_CHECKING:
    from backfill.job.declaration import Declaration
    from backfill.job.target import Target

# Reads the ledger only; uses run_by_age or a short scan: a ledger has few runs.
_LATEST = "SELECT DISTINCT ON (job) job, id, state FROM {s}.run ORDER BY job, created_at DESC"


@dataclass(frozen=True, slots=True)
class _Latest:
    """A job's latest run."""

    id: str
    state: str


@click.command("list")
@json_option
@pass_session
def list_jobs(session: Session, as_json: bool) -> None:
    """List the project's jobs; works without a database, too.

    JSON: {"jobs": [{"name", "class", "doc", "version", "table", "target", "database", "params":
    [{"name", "type", "required", "help"}], "latest_run": {"id", "state"} or null}], "broken":
    {module: error}, "unread": why latest runs could not be read, or null}.
    """
    from backfill.cli import show
    from backfill.job.declaration import declaration_of

    registry = session.project.registry
    declarations = [declaration_of(job) for job in registry.jobs.values()]
    latest, unread = _latest_runs(session, declarations)
    if as_json:
        show.as_json(
            {
                "jobs": [_to_json(d, latest.get(d.name)) for d in declarations],
                "broken": dict(registry.broken),
                "unread": unread,
            }
        )
        return
    if declarations:
        show.table(
            ["JOB", "TABLE", "TARGET", "LATEST RUN", "WHAT"],
            [
                [d.name, d.source.table or "(query)", _target(d), _told(latest.get(d.name)), d.doc]
                for d in declarations
            ],
        )
    elif session.project.settings.project is None:
        click.echo("there is no project here: make one with `backfill init`")
    elif not registry.broken:
        click.echo("the project has no jobs: make one with `backfill new NAME`")
    for module, error in registry.broken.items():
        click.echo(f"broken: {module}: {error}", err=True)
    if unread is not None and declarations:
        click.echo(f"no latest runs: {unread}", err=True)


def _latest_runs(
    session: Session, declarations: list[Declaration]
) -> tuple[dict[str, _Latest], str | None]:
    """By the job's name, and why one of the databases could not be asked."""
    latest: dict[str, _Latest] = {}
    unread: str | None = None
    for database in sorted({d.home(d.options) for d in declarations}):
        try:
            with session.desk(database) as desk:
                for job, run, state in desk.conn.execute(desk.ledger.q(_LATEST)):
                    latest[job] = _Latest(run, state)
        except BackfillError as error:
            unread = unread or error.message
    return latest, unread


def _told(latest: _Latest | None) -> str:
    return "-" if latest is None else f"{latest.id} {latest.state}"


def _target(declaration: Declaration) -> str:
    from backfill.job import Call, Insert, Update

    target: Target = declaration.target
    if isinstance(target, Update):
        columns = target.columns or tuple(declaration.sql.expressions if declaration.sql else ())
        return f"update {', '.join(columns)}"
    if isinstance(target, Insert):
        return f"insert into {target.table}"
    return "call" if isinstance(target, Call) else "delete"


def _to_json(declaration: Declaration, latest: _Latest | None) -> dict[str, object]:
    job = declaration.job_class
    return {
        "name": declaration.name,
        "class": f"{job.__module__}.{job.__qualname__}",
        "doc": declaration.doc,
        "version": declaration.version,
        "table": declaration.source.table,
        "target": _target(declaration),
        "database": declaration.options.database,
        "params": [
            {
                "name": name,
                "type": param.type_name,
                "required": param.required,
                "help": param.help,
            }
            for name, param in declaration.params.items()
        ],
        "latest_run": None if latest is None else {"id": latest.id, "state": latest.state},
    }
