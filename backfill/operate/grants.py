"""The SQL that gives a role the rights to work on runs, for a DBA to read and run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from psycopg import sql

from backfill.engine.checks.subject import Subject, examine
from backfill.engine.rights import job_rights, source_rights, target_rights
from backfill.errors import BackfillError, ProjectError
from backfill.job.declaration import Declaration
from backfill.job.fragment import PLACEHOLDER_PREFIX
from backfill.pg.connect import Connection, connect
from backfill.pg.grants import default_rights, grants, ledger_rights, remark, role_name
from backfill.project import Project
from backfill.settings import DatabaseSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Grants:
    """The SQL, and the jobs whose tables could not be looked at, with the reason."""

    lines: Sequence[str]
    left_out: Mapping[str, str]


def grants_sql(
    project: Project,
    role: str,
    *,
    database: str,
    jobs: Sequence[Declaration],
    params: Mapping[str, object],
    owner: str | None,
) -> Grants:
    """What a role needs, as statements.

    Args:
        database: in which the statements are to be run.
        jobs: those whose tables the role is to work on; each reads or writes this database.
        params: of the jobs, where their expressions need them.
        owner: of the ledger: what it will add to it in upgrades is usable at once.

    Raises:
        UsageError: a name that GRANT would not take for a role's, or no such database.
        UnreachableError: the database does not answer.
    """
    quoted = role_name(role)
    owning = None if owner is None else role_name(owner)
    schema, here = project.settings.schema, project.settings.database(database)
    lines = ["BEGIN;"]
    if not here.source_only:
        told = remark("The ledger: what is recorded of runs.")
        lines += ["", told, *grants(ledger_rights(schema), quoted)]
        if owning is not None:
            lines.append(default_rights(schema, owner=owning, role=quoted))
    left_out: dict[str, str] = {}
    if jobs:
        with closing(connect(here.url)) as conn:
            for declaration in jobs:
                try:
                    lines += _job(project, here, conn, declaration, params=params, role=quoted)
                except BackfillError as error:
                    left_out[declaration.name] = error.message
                    lines += ["", remark(f"Job {declaration.name}: left out: {error.message}")]
    if not here.source_only:
        told = remark(
            "To see sessions of other roles: whether they wait for a batch, how old their"
            " transactions are, how far standbys lag. Without it such signals cannot be read."
        )
        lines += ["", told, f"GRANT pg_read_all_stats TO {quoted.as_string(None)};"]
    return Grants(lines=[*lines, "", "COMMIT;"], left_out=left_out)


def databases_of(project: Project, declaration: Declaration) -> tuple[str, str]:
    """The names of the database that a job reads, and of the one that it writes; often the same.

    Raises:
        UsageError: the project has no such database.
    """
    options = declaration.options
    read = project.settings.database(options.database).name
    return read, project.settings.database(declaration.home(options)).name


def _job(
    project: Project,
    here: DatabaseSettings,
    conn: Connection,
    declaration: Declaration,
    *,
    params: Mapping[str, object],
    role: sql.Identifier,
) -> list[str]:
    told = remark(f"Job {declaration.name}: {declaration.doc}")
    arguments = _arguments(declaration, params)
    read, written = databases_of(project, declaration)
    if read == written:
        subject = _examined(conn, declaration, arguments, source_conn=None)
        return ["", told, *grants(job_rights(conn, subject), role)]
    other = written if here.name == read else read
    with closing(connect(project.settings.database(other).url)) as there:
        if here.name == read:
            subject = _examined(there, declaration, arguments, source_conn=conn)
            rights, does = list(source_rights(conn, subject)), f"writes database {other}"
        else:
            subject = _examined(conn, declaration, arguments, source_conn=there)
            rights, does = list(target_rights(conn, subject)), f"reads database {other}"
    more = remark(f"It {does}, too: grant there what `db grants` prints with --database {other}.")
    return ["", told, more, *grants(rights, role)]


def _examined(
    conn: Connection,
    declaration: Declaration,
    arguments: Mapping[str, object],
    *,
    source_conn: Connection | None,
) -> Subject:
    declaration.reads_unlocked(declaration.options, lockable=declaration.source.table is not None)
    subject, found = examine(conn, declaration, arguments=arguments, source_conn=source_conn)
    if subject is None or found.has_errors:
        raise next(
            (finding.as_error() for finding in found.findings),
            ProjectError("its tables cannot be looked at"),
        )
    return subject


def _arguments(declaration: Declaration, params: Mapping[str, object]) -> dict[str, object]:
    """For planning: a secret's value decides nothing there, and need not be known."""
    secret = {name for name, param in declaration.params.items() if param.secret}
    values = declaration.complete_params(
        {name: value for name, value in params.items() if name not in secret}
    )
    return {f"{PLACEHOLDER_PREFIX}{name}": values.get(name, "") for name in declaration.params}
