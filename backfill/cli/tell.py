"""Prints what an action on a run has told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from backfill.errors import ExitCode
    from backfill.operate import Told


def tell(told: Told) -> ExitCode:
    """Print what was done, on standard error what to know of it; returns the exit code."""
    for line in told.lines:
        click.echo(line)
    for note in told.notes:
        click.echo(note, err=True)
    return told.exit_code
