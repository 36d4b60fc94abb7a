"""`backfill dry-run`: real batches, shown and rolled back.

Values of rows are shown to the person who asked, on standard output, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from backfill.cli.ending import ends_in_order
from backfill.cli.options import (
    Assignment,
    collected,
    json_option,
    number_option,
    overrides,
    params_option,
    set_option,
)
from backfill.cli.plain import cut, plain
from backfill.cli.session import Session, pass_session
from backfill.errors import ExitCode

if TYPE_CHECKING:
    from backfill.engine.dryrun import DryRun, Place
    from backfill.engine.trial import Change
    from backfill.job.declaration import Declaration

#: A longer value is cut.
VALUE_CHARACTERS = 120
#: So many rows that would go into quarantine are shown for each place.
REFUSED_SHOWN = 5


@click.command("dry-run")
@click.argument("job", metavar="JOB")
@params_option
@set_option
@number_option("--rows", most=100_000, default=1_000, told="Rows that are tried at each place.")
@number_option(
    "--show", "shown", most=100, default=3, told="Rows that are shown at each place.", least=0
)
@click.option("--database", metavar="NAME", help="A database of the project's settings.")
@click.option(
    "--with-effects",
    is_flag=True,
    help="Also for a job whose effect is outside the database, and stays.",
)
@json_option
@pass_session
@ends_in_order
def dry_run(
    session: Session,
    *,
    job: str,
    params: tuple[Assignment, ...],
    settings: tuple[Assignment, ...],
    rows: int,
    shown: int,
    database: str | None,
    with_effects: bool,
    as_json: bool,
) -> int:
    """Try a job in batches that are rolled back.

    At the beginning, in the middle and at the end of the table: rows before and after, rows that
    would go into quarantine, time and WAL. Exit code 1: a run would not succeed.

    JSON: {"job", "database", "clean", "warnings", "matching": {"rows", "is_exact"} or null,
    "places": [{"name", "after", "batches", "paged", "taken", "written", "unchanged", "missing",
    "undone", "seconds", "wal_bytes", "problem", "refused": [{"key", "sqlstate", "message"}],
    "changes": [{"key", "before", "after"}]}], "estimates": [{"name", "value" or null, "basis"}]}.
    """
    from backfill.operate.before import dry_run_job

    declaration = session.project.declaration(job)
    options = declaration.options.replace_from_text(overrides(settings, database=database))
    done = dry_run_job(
        session.project,
        declaration,
        params=declaration.parse_params(collected(params, what="parameter")),
        options=options,
        rows=rows,
        shown=shown,
        with_effects=with_effects,
    )
    if as_json:
        _print_json(done, declaration, declaration.home(options))
    else:
        for line in _told(done, declaration):
            click.echo(line)
        for warning in done.warnings:
            click.echo(f"warning: {plain(warning)}", err=True)
    return ExitCode.DONE if done.is_clean else ExitCode.FAILED


def _told(done: DryRun, declaration: Declaration) -> Iterator[str]:
    from backfill.cli import show
    from backfill.engine.checks.estimate import told_bytes

    if not done.places:
        yield "the table is empty: there is nothing to try"
    for place in done.places:
        yield from _place(place)
        yield ""
    if done.matching is not None:
        about = "" if done.matching.is_exact else "about "
        yield f"{declaration.name}: {about}{done.matching.rows:,} rows match"
    for estimate in done.estimates:
        name = "time" if estimate.name == "seconds" else "WAL"
        if estimate.value is None:
            value = "not known"
        elif estimate.name == "seconds":
            value = f"about {show.roughly(estimate.value)}"
        else:
            value = f"about {told_bytes(estimate.value)}"
        yield f"  {name}: {value} ({plain(estimate.basis)})"
    yield "everything was rolled back"


def _place(place: Place) -> Iterator[str]:
    from backfill.cli.show import key_text

    where = f", after {key_text(place.after)}" if place.after is not None else ""
    yield (
        f"{place.name}{where}: {place.taken:,} row{'s' * (place.taken != 1)} in {place.batches:,}"
        f" batch{'es' * (place.batches != 1)},"
        f" {place.seconds:.3g} s: {place.written:,} written, {place.unchanged:,} unchanged,"
        f" {len(place.refused):,} into quarantine"
        + (f", {place.missing:,} skipped or suppressed" if place.missing else "")
    )
    for change in place.changes:
        yield from _change(change)
    for refused in place.refused[:REFUSED_SHOWN]:
        state = f" ({refused.sqlstate})" if refused.sqlstate else ""
        yield f"  ! {key_text(refused.key)}{state}: {plain(cut(refused.message, 300))}"
    if len(place.refused) > REFUSED_SHOWN:
        yield f"  ! and {len(place.refused) - REFUSED_SHOWN:,} more"
    if place.problem:
        yield f"  ! {plain(place.problem)}"


def _change(change: Change) -> Iterator[str]:
    from backfill.cli.show import key_text

    key = "new row" if change.key is None else key_text(change.key)
    if change.before is not None and change.after is None:
        yield f"  - {key}"
        yield from (f"      {plain(c)}: {_value(change.before[c])}" for c in change.columns)
    elif change.before is None and change.after is not None:
        yield f"  + {key}"
        yield from (f"      {plain(c)}: {_value(change.after[c])}" for c in change.columns)
    elif change.columns:
        before, after = change.before or {}, change.after or {}
        yield f"  ~ {key}"
        yield from (
            f"      {plain(c)}: {_value(before.get(c))} → {_value(after.get(c))}"
            for c in change.columns
        )
    else:
        yield f"  = {key}: as it was"


def _value(text: str | None) -> str:
    """NULL, or the text; in quotes where it would be mistaken."""
    if text is None:
        return "NULL"
    told = plain(cut(text, VALUE_CHARACTERS))
    return f'"{told}"' if text != text.strip() or text in {"", "NULL"} else told


def _print_json(done: DryRun, declaration: Declaration, database: str) -> None:
    from backfill.cli import show

    show.as_json(
        {
            "job": declaration.name,
            "database": database,
            "clean": done.is_clean,
            "warnings": list(done.warnings),
            "matching": None
            if done.matching is None
            else {"rows": done.matching.rows, "is_exact": done.matching.is_exact},
            "places": [_place_json(place) for place in done.places],
            "estimates": [
                {"name": e.name, "value": e.value, "basis": e.basis} for e in done.estimates
            ],
        }
    )


def _place_json(place: Place) -> dict[str, object]:
    return {
        "name": place.name,
        "after": None if place.after is None else list(place.after),
        "batches": place.batches,
        "paged": place.paged,
        "taken": place.taken,
        "written": place.written,
        "unchanged": place.unchanged,
        "missing": place.missing,
        "undone": place.undone,
        "seconds": place.seconds,
        "wal_bytes": place.wal_bytes,
        "problem": place.problem or None,
        "refused": [
            {"key": list(one.key), "sqlstate": one.sqlstate, "message": one.message}
            for one in place.refused
        ],
        "changes": [
            {
                "key": None if one.key is None else list(one.key),
                "before": None if one.before is None else dict(one.before),
                "after": None if one.after is None else dict(one.after),
            }
            for one in place.changes
        ],
    }
