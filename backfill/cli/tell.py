"""Prints what was done, so that somebody learns it also where standard output is full."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from backfill.errors import OutputError

if TYPE_CHECKING:
    from backfill.errors import ExitCode
    from backfill.operate import Told


def tell(told: Told) -> ExitCode:
    """Print what was done, on standard error what to know of it; returns the exit code."""
    for line in told.lines:
        say_done(line)
    for note in told.notes:
        click.echo(note, err=True)
    return told.exit_code


def say_done(text: str) -> None:
    """Print what was done; on standard error where standard output cannot be written.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        click.echo(text)
    except OutputError:
        click.echo(text, err=True)
        raise
