"""What is looked at before a run is written: refused now, rather than found at 3 a.m.

The findings are made in engine/checks; `backfill check` shows them all, here the first error
refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backfill.engine.checks.finding import Severity
from backfill.engine.checks.key import check_mutable_key
from backfill.engine.checks.subject import examine
from backfill.job import Options
from backfill.job.declaration import Declaration
from backfill.pg.connect import Connection
from backfill.pg.keyset import Keyset
from backfill.pg.ledger import ResolvedSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What the preflight found.

    Attributes:
        keyset: how the source is walked.
        relation, columns: what the run writes, to be claimed; `*` stands for deleting rows.
        warnings: sentences for a person.
    """

    source: ResolvedSource
    keyset: Keyset
    relation: str
    columns: tuple[str, ...]
    warnings: tuple[str, ...]


def preflight(
    conn: Connection,
    declaration: Declaration,
    *,
    arguments: Mapping[str, Any],
    options: Options | None = None,
    source_conn: Connection | None = None,
) -> Preflight:
    """Resolve the job's tables and refuse what cannot go well.

    Args:
        arguments: parameters by placeholder, for planning.
        options: those that the run is to have; None: the job's own.
        source_conn: to the source's database, where it is not the one that is written.

    Raises:
        ProjectError: a table, column or expression that PostgreSQL does not know.
        DeclarationError: a key or target that cannot serve.
        RefusedError: this role may not read or write what the job needs.
        UsageError: the job cannot work with these options.
    """
    options = options or declaration.options
    # what is wrong already where the source is what the declaration says
    declaration.reads_unlocked(options, lockable=declaration.source.table is not None)
    subject, found = examine(conn, declaration, arguments=arguments, source_conn=source_conn)
    for finding in found.findings:
        if finding.severity is Severity.ERROR:
            raise finding.as_error()
    if subject is None:
        raise AssertionError(f"{declaration.name} was not resolved, and nothing says why")
    declaration.reads_unlocked(options, lockable=subject.source.is_lockable)
    return Preflight(
        source=ResolvedSource(
            table=subject.source.qualified,
            name=subject.source.name,
            key=subject.key,
            key_types=subject.keyset.types,
        ),
        keyset=subject.keyset,
        relation=subject.claimed_table,
        columns=subject.claimed,
        warnings=tuple(f.message for f in check_mutable_key(declaration, subject.key)),
    )
