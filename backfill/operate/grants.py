"""The SQL that gives a role the rights to work on runs, for a DBA to read and run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from psycopg import sql

from backfill.engine.checks.subject import examine
from backfill.engine.rights import job_rights
from backfill.errors import BackfillError, ProjectError
from backfill.job.declaration import Declaration
from backfill.job.fragment import PLACEHOLDER_PREFIX
from backfill.pg.connect import Connection, connect
from backfill.pg.grants import Right, default_rights, grants, ledger_rights, remark, role_name
from backfill.project import Project


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
        jobs: those whose tables the role is to work on.
        params: of the jobs, where their expressions need them.
        owner: of the ledger: what it will add to it in upgrades is usable at once.

    Raises:
        UsageError: a name that GRANT would not take for a role's, or no such database.
        UnreachableError: the database does not answer.
    """
    quoted = role_name(role)
    owning = None if owner is None else role_name(owner)
    schema = project.settings.schema
    lines = [
        "BEGIN;",
        "",
        remark("The ledger: what is recorded of runs."),
        *grants(ledger_rights(schema), quoted),
    ]
    if owning is not None:
        lines.append(default_rights(schema, owner=owning, role=quoted))
    left_out: dict[str, str] = {}
    if jobs:
        with closing(connect(project.settings.database(database).url)) as conn:
            for declaration in jobs:
                try:
                    lines += _job(conn, declaration, params, quoted)
                except BackfillError as error:
                    left_out[declaration.name] = error.message
                    lines += ["", remark(f"Job {declaration.name}: left out: {error.message}")]
    lines += [
        "",
        remark(
            "To see sessions of other roles: whether they wait for a batch, how old their"
            " transactions are, how far standbys lag. Without it such signals cannot be read."
        ),
        f"GRANT pg_read_all_stats TO {quoted.as_string(None)};",
        "",
        "COMMIT;",
    ]
    return Grants(lines=lines, left_out=left_out)


def _job(
    conn: Connection,
    declaration: Declaration,
    params: Mapping[str, object],
    role: sql.Identifier,
) -> Iterator[str]:
    subject, found = examine(conn, declaration, arguments=_arguments(declaration, params))
    if subject is None or found.has_errors:
        raise next(
            (finding.as_error() for finding in found.findings),
            ProjectError("its tables cannot be looked at"),
        )
    rights: list[Right] = list(job_rights(conn, subject))
    return iter(["", remark(f"Job {declaration.name}: {declaration.doc}"), *grants(rights, role)])


def _arguments(declaration: Declaration, params: Mapping[str, object]) -> dict[str, object]:
    """For planning: a secret's value decides nothing there, and need not be known."""
    secret = {name for name, param in declaration.params.items() if param.secret}
    values = declaration.complete_params(
        {name: value for name, value in params.items() if name not in secret}
    )
    return {f"{PLACEHOLDER_PREFIX}{name}": values.get(name, "") for name in declaration.params}
