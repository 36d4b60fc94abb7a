"""`backfill status`: the runs, or one of them in detail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from backfill.cli import show
from backfill.cli.options import json_option, number_option, run_argument
from backfill.cli.plain import plain
from backfill.cli.session import Session, pass_session
from backfill.watch.words import bounds, counts_sum

if TYPE_CHECKING:
    from backfill.checkpoint import Checkpoint
    from backfill.pg.ledger import Run
    from backfill.project import Desk
    from backfill.watch.progress import Progress

_NO_WORKER = "no worker is running: start one with `backfill worker`"


@click.command()
@run_argument
@number_option("--limit", most=1000, default=20, told="Runs in the list.")
@json_option
@pass_session
def status(
    session: Session, run_text: str | None, database: str | None, limit: int, as_json: bool
) -> None:
    """List the runs, or show one in detail.

    JSON of a run: {"run", "job", "label", "state", "executor", "requested_by", "params", "bounds":
    {"from", "to", "limit"}, "options", "total_rows", "total_is_exact", "share", "counts", "slices",
    "held", "rows_per_second", "eta_seconds", "eta_low_seconds", "eta_high_seconds", "eta_at",
    "limited_by", "speed", "signals", "pauses", "workers", "failure", "created_at", "started_at",
    "finished_at", "source", "database", "quarantine": {"open", "all"}}.
    Of the list: {"runs": […]}.
    """
    if run_text is None:
        _list(session, database, limit, as_json=as_json)
        return
    with session.run(run_text, database) as (desk, run), _checkpoint(session, desk) as checkpoint:
        progress = session.project.progress(desk, run.id, checkpoint=checkpoint)
        if as_json:
            show.as_json(_to_json(desk, progress))
        else:
            _show(desk, progress)


def _list(session: Session, database: str | None, limit: int, *, as_json: bool) -> None:
    from backfill.pg.control import stopped
    from backfill.pg.ledger import list_runs

    found: list[dict[str, Any]] = []
    rows: list[list[str]] = []
    unattended = False
    unconfirmed: dict[str, str] = {}
    for name in [database] if database is not None else list(session.project.settings.ledgers):
        with session.desk(name) as desk, _checkpoint(session, desk) as checkpoint:
            button = stopped(desk.conn, desk.ledger)
            if button is not None:
                click.echo(f"{name}: {button.told}; `backfill start-all` ends it", err=True)
            for run in list_runs(desk.conn, desk.ledger, limit=limit):
                progress = session.project.progress(desk, run.id, checkpoint=checkpoint)
                found.append(_to_json(desk, progress))
                rows.append(_row(progress))
                unattended = unattended or _is_unattended(progress)
                if progress.unconfirmed:
                    unconfirmed[name] = progress.unconfirmed
    if as_json:
        show.as_json({"runs": found})
        return
    if rows:
        show.table(["RUN", "STATE", "DONE", "ROWS", "ROWS/S", "WHAT", "SINCE"], rows)
    else:
        click.echo("there are no runs: `backfill list` shows the jobs")
    if unattended:
        click.echo(_NO_WORKER, err=True)
    for name, told in unconfirmed.items():
        click.echo(f"{name}: runs stand still behind {told}", err=True)


def _is_unattended(progress: Progress) -> bool:
    """True where no worker is seen, and a commit that hangs is not why."""
    run = progress.run
    is_unseen = run.run_state.is_live and run.executor == "celery" and not progress.workers
    return is_unseen and not progress.unconfirmed


def _row(progress: Progress) -> list[str]:
    run = progress.run
    rate = progress.rows_per_second
    return [
        run.id,
        show.state(progress),
        show.share(progress),
        f"{progress.counts.settled:,}",
        "" if rate is None or not run.run_state.is_working else f"{rate:,.0f}",
        plain(", ".join(filter(None, (progress.label, bounds(run))))),
        show.local_time(run.created_at),
    ]


def _show(desk: Desk, progress: Progress) -> None:
    run = progress.run
    click.echo(f"{run.id}  {show.state(progress)}")
    show.fields(
        {
            "progress": _progress(progress),
            "limited by": progress.limited_by if not progress.pauses else "",
            "counts": counts_sum(progress.counts),
            "slices": _slices(progress),
            "quarantine": _quarantine(desk, progress),
            "failure": run.failure or "",
            "workers": _workers(progress),
            "params": ", ".join(f"{name}={value}" for name, value in run.params.items()),
            "bounds": _bounds(progress),
            "options": _options(run),
            "database": desk.database,
            "asked by": f"{run.requested_by}, {show.local_time(run.created_at)}",
            "began": "" if run.started_at is None else show.local_time(run.started_at),
            "ended": "" if run.finished_at is None else show.local_time(run.finished_at),
        }
    )
    for number, line in enumerate(show.signals(progress.signals)):
        click.echo(f"  {'' if number else 'signals':<10}  {line}")
    for pause in progress.pauses:
        click.echo(f"  paused: {show.pause_told(pause)}")
    if run.state == "failed":
        click.echo(f"  mend it, then `backfill retry {run.id}`")


def _progress(progress: Progress) -> str:
    estimate = "" if progress.run.total_is_exact or progress.total_rows is None else " (estimated)"
    left = show.left(progress)
    return f"{progress.line()}{estimate}{f', {left}' if left else ''}"


def _bounds(progress: Progress) -> str:
    run = progress.run
    is_limited = run.state == "succeeded" and progress.counts.reach(run.row_limit)
    return f"{bounds(run)}{'; reached, there may be more' if is_limited else ''}"


def _slices(progress: Progress) -> str:
    phases = ", ".join(f"{number} {phase}" for phase, number in progress.by_phase.items())
    more = "" if progress.run.frontier_done else "; more to be placed"
    return f"{phases}; {progress.held} held{more}"


def _quarantine(desk: Desk, progress: Progress) -> str:
    from backfill.pg.quarantine import open_quarantine

    if not progress.counts.quarantined:
        return ""
    waiting = open_quarantine(desk.conn, desk.ledger, progress.run.id)
    rows = "1 row" if waiting == 1 else f"{waiting:,} rows"
    return (
        f"{rows} waiting, {max(0, progress.counts.quarantined - waiting):,} accepted:"
        f" `backfill quarantine list {progress.run.id}`"
    )


def _workers(progress: Progress) -> str:
    if progress.run.executor == "local":
        return (
            f"none: it is a process's own (`backfill run {progress.run.job}`)"
            if progress.run.run_state.is_live
            else ""
        )
    return _NO_WORKER if _is_unattended(progress) else str(progress.workers or "")


def _options(run: Run) -> str:
    """Those that differ from the defaults."""
    from backfill.job import Options

    defaults = Options().to_json()
    return ", ".join(
        f"{name}={value}" for name, value in run.options.items() if value != defaults.get(name)
    )


def _to_json(desk: Desk, progress: Progress) -> dict[str, Any]:
    from backfill.pg.quarantine import open_quarantine

    return {
        **progress.to_json(),
        "database": desk.database,
        "quarantine": {
            "open": open_quarantine(desk.conn, desk.ledger, progress.run.id),
            "all": progress.counts.quarantined,
        },
    }


@contextmanager
def _checkpoint(session: Session, desk: Desk) -> Iterator[Checkpoint | None]:
    """The checkpoint of this desk's ledger, closed at the end."""
    checkpoint = session.project.checkpoint(desk.ledger)
    try:
        yield checkpoint
    finally:
        if checkpoint is not None:
            checkpoint.close()
