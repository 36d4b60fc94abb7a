"""What a person is told after an action, and the telling of the workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from backfill.errors import BackfillError, ExitCode
from backfill.worker.sent import Sent


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a person is told after an action.

    Attributes:
        lines: what was done; standard output on the command line.
        notes: warnings, and what to do next; standard error on the command line.
        exit_code: what the command line ends with.
    """

    lines: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    exit_code: ExitCode = ExitCode.DONE

    def then(self, later: Told) -> Told:
        """Both, with the exit code of what came later."""
        return Told(
            lines=self.lines + later.lines,
            notes=self.notes + later.notes,
            exit_code=later.exit_code,
        )


def send_or_warn(send: Callable[[], Sent], *, otherwise: str) -> Told:
    """Send messages; without them the reconciler finds what is to do, and a warning says so.

    Args:
        send: says whether Redis took them.
        otherwise: what happens when Redis is back, in words.
    """
    try:
        sent = send()
    except BackfillError as error:  # the project cannot send messages at all
        return Told(notes=(f"warning: {error.message}",))
    if not sent:
        return Told(notes=(sent.warning(otherwise),))
    return Told()
