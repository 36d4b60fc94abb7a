"""`backfill check`: what speaks against a run of a job, found before it is enqueued."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from backfill.cli.ending import ends_in_order
from backfill.cli.options import (
    Assignment,
    collected,
    json_option,
    overrides,
    params_option,
    set_option,
)
from backfill.cli.session import Session, pass_session
from backfill.errors import ExitCode

if TYPE_CHECKING:
    from backfill.engine.check import Report
    from backfill.engine.checks.estimate import Estimate
    from backfill.job.declaration import Declaration


@click.command()
@click.argument("job", metavar="JOB")
@params_option
@set_option
@click.option("--rate", metavar="RATE", help="Estimate the time at this rate, such as 5000/s.")
@click.option("--database", metavar="NAME", help="A database of the project's settings.")
@click.option("--strict", is_flag=True, help="Warnings count as findings, too.")
@json_option
@pass_session
@ends_in_order
def check(
    session: Session,
    *,
    job: str,
    params: tuple[Assignment, ...],
    settings: tuple[Assignment, ...],
    rate: str | None,
    database: str | None,
    strict: bool,
    as_json: bool,
) -> int:
    """Look at a job's tables and its server before a run.

    Errors make a run impossible: exit code 1. Warnings may do harm: with --strict exit code 1, too.

    JSON: {"job", "database", "findings": [{"name", "severity", "message", "why", "remedy"}],
    "counts": {"error", "warning", "note"}, "complete", "page": {"walks_index", "plan": [lines]} or
    null, "estimates": [{"name", "value" or null, "basis"}]}.
    """
    from backfill.engine.checks.finding import Severity
    from backfill.operate.before import check_job

    declaration = session.project.declaration(job)
    given = overrides(settings, rate=rate, database=database)
    options = declaration.options.replace_from_text(given)
    report = check_job(
        session.project,
        declaration,
        params=declaration.parse_params(collected(params, what="parameter")),
        options=options,
    )
    (_print_json if as_json else _print)(report, declaration, declaration.home(options))
    failed = report.count(Severity.ERROR) or (strict and report.count(Severity.WARNING))
    return ExitCode.FAILED if failed else ExitCode.DONE


def _print(report: Report, declaration: Declaration, database: str) -> None:
    from backfill.cli import show
    from backfill.cli.plain import plain
    from backfill.engine.checks.finding import Severity

    if report.findings:
        show.table(
            ["SEVERITY", "FINDING", "WHAT, WHY IT MATTERS, → WHAT TO DO"],
            [
                [
                    str(finding.severity),
                    finding.name,
                    f"{plain(finding.message)}\n{plain(finding.why)}\n→ {plain(finding.remedy)}",
                ]
                for finding in report.findings
            ],
        )
        click.echo()
    if report.page is not None:
        click.echo(f"The page of keys {report.page.told}:")
        for line in report.page.lines:
            click.echo(f"  {plain(line)}")
        click.echo()
    if report.estimates:
        show.table(
            ["ESTIMATE", "VALUE", "HOW IT WAS GOT"],
            [[e.name.replace("_", " "), _told(e), plain(e.basis)] for e in report.estimates],
        )
        click.echo()
    counted = ", ".join(
        f"{report.count(severity)} {severity}{'s' * (report.count(severity) != 1)}"
        for severity in Severity
    )
    click.echo(f"{declaration.name} on database {database}: {counted}")
    if not report.is_complete:
        click.echo("not everything could be looked at: mend the errors and check again", err=True)


def _told(estimate: Estimate) -> str:
    from backfill.cli import show
    from backfill.engine.checks.estimate import told_bytes

    if estimate.value is None:
        return "not known"
    if estimate.name == "seconds":
        return f"about {show.roughly(estimate.value)}"
    if estimate.name.endswith("_bytes"):
        return f"about {told_bytes(estimate.value)}"
    return f"{estimate.value:,.0f}"


def _print_json(report: Report, declaration: Declaration, database: str) -> None:
    from backfill.cli import show
    from backfill.engine.checks.finding import Severity

    show.as_json(
        {
            "job": declaration.name,
            "database": database,
            "findings": [
                {
                    "name": finding.name,
                    "severity": str(finding.severity),
                    "message": finding.message,
                    "why": finding.why,
                    "remedy": finding.remedy,
                }
                for finding in report.findings
            ],
            "counts": {str(severity): report.count(severity) for severity in Severity},
            "complete": report.is_complete,
            "page": None
            if report.page is None
            else {"walks_index": report.page.walks_index, "plan": list(report.page.lines)},
            "estimates": [
                {"name": e.name, "value": e.value, "basis": e.basis} for e in report.estimates
            ],
        }
    )
