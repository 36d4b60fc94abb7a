"""`backfill report`: what a run did, as a page to be kept with the change."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backfill.cli.options import run_argument
from backfill.cli.session import Session, pass_session
from backfill.errors import BackfillError, RefusedError, UsageError

if TYPE_CHECKING:
    from backfill.project import Project


@click.command()
@run_argument
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write it there, whole or not at all; else print it.",
)
@click.option("--rows", is_flag=True, help="With keys and messages of rows: they may quote them.")
@pass_session
def report(
    session: Session, run_text: str | None, database: str | None, output: Path | None, rows: bool
) -> None:
    """Report what a run did, in Markdown.

    What it was, who asked for it, how it went, what paused it, what was changed, and what became of
    the rows. Of a live run, as it is now.
    """
    from backfill.watch.page import page
    from backfill.watch.report import read
    from backfill.watch.words import told_url

    with session.run(run_text, database) as (desk, run):
        found = read(
            desk.conn,
            desk.ledger,
            run.id,
            database=told_url(desk.database, desk.url),
            about=_about(session.project, run.job),
            with_rows=rows,
        )
    if output is None:
        click.echo(page(found), nl=False)
        return
    _write(output, page(found))
    click.echo(f"{run.id} is told of in {output}", err=True)


def _about(project: Project, job: str) -> str:
    """The first line of the job's docstring, if the project still has the job."""
    with suppress(BackfillError):
        return project.declaration(job).doc.partition("\n")[0]
    return ""


def _write(path: Path, text: str) -> None:
    """Put the page in place of what is there, in one step: nobody sees half of it.

    Only a file is replaced: a device, a pipe or what a link points to is written to.

    Raises:
        UsageError: it is no name of a file.
        RefusedError: it cannot be written there.
    """
    if not path.name:
        raise UsageError("--output names no file", remedy="Write one, such as report.md.")
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            path.write_text(text, encoding="utf-8")
            return
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                # as a file that was opened in the usual way, not for its owner alone
                umask = os.umask(0)
                os.umask(umask)
                Path(file.name).chmod(0o666 & ~umask)
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise RefusedError(f"{path} cannot be written: {error.strerror}") from error
