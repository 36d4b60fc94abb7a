"""`backfill check`: everything that is found about a job before it runs; nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backfill.engine.checks import meeting, reading, runs, storage, surroundings
from backfill.engine.checks.estimate import Estimate, estimates
from backfill.engine.checks.finding import Finding, Severity, error
from backfill.engine.checks.plan import PagePlan
from backfill.engine.checks.scene import read_scene
from backfill.engine.checks.subject import examine
from backfill.errors import LedgerError
from backfill.job import Options
from backfill.job.declaration import Declaration
from backfill.pg.connect import Connection
from backfill.pg.ledger import Ledger

#: In this order findings of one severity are shown.
ADVICE = (*reading.CHECKS, *meeting.CHECKS, *storage.CHECKS, *surroundings.CHECKS)
_BY_SEVERITY = list(Severity)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was found.

    Attributes:
        findings: the worst first.
        is_complete: False: an error keeps the rest from being looked at.
        page: the plan of the page; None: not known.
        estimates: empty when the job's tables could not be resolved.
    """

    findings: Sequence[Finding]
    is_complete: bool = True
    page: PagePlan | None = None
    estimates: Sequence[Estimate] = ()

    def count(self, severity: Severity) -> int:
        """How many findings are that bad."""
        return sum(finding.severity is severity for finding in self.findings)


def check(
    conn: Connection,
    declaration: Declaration,
    *,
    arguments: Mapping[str, Any],
    options: Options,
    ledger: Ledger | LedgerError,
    source_conn: Connection | None = None,
) -> Report:
    """Look at a job's tables, its server and the ledger. No transaction may be open.

    Args:
        arguments: parameters by placeholder.
        options: those that a run would have.
        source_conn: to the source's database, where it is not the one that is written.
        ledger: or why there is none that can be used.
    """
    subject, found = examine(conn, declaration, arguments=arguments, source_conn=source_conn)
    is_plannable, findings = not found.has_errors, found.findings
    if isinstance(ledger, LedgerError):
        findings.append(
            error(
                "ledger-unusable",
                ledger.message,
                why="A run is recorded there, in the transactions of its batches.",
                remedy=ledger.remedy,
                refusal=LedgerError,
            )
        )
    if subject is None:
        return Report(findings=_sorted(findings), is_complete=False)
    before = None
    lacking = list(runs.ledger_rights(conn, ledger)) if isinstance(ledger, Ledger) else []
    findings += lacking
    if isinstance(ledger, Ledger) and not lacking:
        findings += runs.live_runs(conn, ledger, subject)
        findings += runs.red_button(conn, ledger)
        before = runs.before(conn, ledger, declaration.name)
    scene = read_scene(
        conn, subject, options, is_plannable=is_plannable, reader=source_conn or conn
    )
    for advice in ADVICE:
        findings += advice(scene)
    return Report(
        findings=_sorted(findings),
        is_complete=is_plannable,
        page=scene.page,
        estimates=estimates(scene, before=before),
    )


def _sorted(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda finding: _BY_SEVERITY.index(finding.severity))
