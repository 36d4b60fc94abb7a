"""Telling the workers of a change: messages only make it quicker (I3)."""

from __future__ import annotations

from collections.abc import Callable

import click

from backfill.errors import BackfillError


def sent_or_warned(send: Callable[[], bool], *, otherwise: str) -> bool:
    """Send messages; without them the reconciler finds what is to do, and a warning says so.

    Args:
        send: False when Redis did not take them.
        otherwise: what happens when Redis is back, in words.

    Returns:
        False when the project cannot send messages at all.
    """
    try:
        sent = send()
    except BackfillError as error:
        click.echo(f"warning: {error.message}", err=True)
        return False
    if not sent:
        click.echo(f"warning: Redis does not answer; {otherwise} when it is back", err=True)
    return True
