"""The loss of a worker in mid-run, and what becomes of its slices.

It is lost by SIGKILL to its whole process group, while it is within a slice. What it held is asked
once it is dead, since until then it may end a slice and give it back. From then on the ledger is
asked for these slices: a raised epoch says that the dead worker's word counts no more (I3), and
whoever holds them under it goes on. A slice that was taken and ended between two looks is told of
when the run has succeeded, which says that all of it was done.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from backfill.local.screen import Screen
from backfill.local.stage import Worker
from backfill.project import Desk

#: The kill falls after this share of the run, so that what was held is free again before its end.
KILL_SHARE = 0.25
#: And where at least this share of a slice is left, so that the worker does not just give it back.
LEFT_SHARE = 0.5

# Both read a run's few slices by its primary key's first column.
_HELD = "SELECT number, epoch, holder, paged FROM {s}.slice WHERE run = %s AND holder IS NOT NULL"
_LOST = "SELECT number, epoch, holder FROM {s}.slice WHERE run = %s AND number = ANY(%s)"


class Held(NamedTuple):
    """A slice that somebody holds; `paged` counts the rows that were read of it."""

    number: int
    epoch: int
    holder: str
    paged: int

    @property
    def process(self) -> int:
        """The process id in the holder's name, `host:process.thread`; 0 where there is none."""
        number = self.holder.rpartition(":")[2].partition(".")[0]
        return int(number) if number.isdigit() else 0


def held_slices(desk: Desk, run: str) -> list[Held]:
    """The slices of a run that are held now."""
    return [Held(*row) for row in desk.conn.execute(desk.ledger.q(_HELD), [run])]


class Loss:
    """One worker of a run is killed; see the module.

    Args:
        workers: all that there are, also those that come later; the newest that works is killed.
        slice_rows: rows of a slice of the run, about.
        lease_seconds: after which a lost slice is free again.
    """

    def __init__(
        self,
        desk: Desk,
        screen: Screen,
        workers: Sequence[Worker],
        *,
        slice_rows: int,
        lease_seconds: float,
    ) -> None:
        self._desk = desk
        self._screen = screen
        self._workers = workers
        self._slice_rows = slice_rows
        self._lease_seconds = lease_seconds
        self._at = 0.0
        #: by number, the epoch under which the dead worker held it; what went on is taken out
        self._slices: dict[int, int] = {}
        self._killed: Worker | None = None

    @property
    def has_fallen(self) -> bool:
        """True once the worker is dead."""
        return self._killed is not None

    def kill_one(self, run: str) -> bool:
        """Kill the newest worker that is within a slice; False: none is, for an instant."""
        for worker in reversed(self._workers):
            held = [one for one in held_slices(self._desk, run) if worker.runs(one.process)]
            if any(one.paged <= (1 - LEFT_SHARE) * self._slice_rows for one in held):
                break
        else:
            return False
        worker.kill()
        self._killed, self._at = worker, time.monotonic()
        holders = {one.holder for one in held}
        left = [one for one in held_slices(self._desk, run) if one.holder in holders]
        self._slices = {one.number: one.epoch for one in left}
        self._screen.event(
            f"worker {worker.name} killed with SIGKILL;"
            f" its lease of {_named(self._slices)} runs out within {self._lease_seconds:g} s",
            style="bold red",
        )
        return True

    def look(self, run: str) -> None:
        """Say who goes on with what was lost; nobody may yet, where a slice is free."""
        for number, epoch, holder in self._lost(run):
            if holder is not None and epoch > self._slices[number]:
                heir = Held(number, epoch, holder, 0).process
                names = (worker.name for worker in self._workers if worker.runs(heir))
                self._tell_of_heir(number, f"goes on with {next(names, 'another worker')}")

    def tell_of_the_rest(self, run: str) -> None:
        """Of a run that has succeeded: the slices that went on between two looks."""
        for number, epoch, _ in self._lost(run):
            if epoch > self._slices[number]:
                self._tell_of_heir(number, "went on with another worker")
            else:  # the last that it had sent arrived after its death
                del self._slices[number]
                self._screen.event(f"slice {number} was ended by the last that {self._name} sent")

    @property
    def _name(self) -> str:
        return "" if self._killed is None else self._killed.name

    def _lost(self, run: str) -> list[tuple[int, int, str | None]]:
        rows = self._desk.conn.execute(self._desk.ledger.q(_LOST), [run, list(self._slices)])
        return [(number, epoch, holder) for number, epoch, holder in rows]

    def _tell_of_heir(self, number: int, went_on: str) -> None:
        del self._slices[number]
        self._screen.event(
            f"slice {number} of {self._name} {went_on}, from its cursor,"
            f" {time.monotonic() - self._at:.1f} s after the kill",
            style="bold green",
        )


def _named(numbers: dict[int, int]) -> str:
    """`slice 4`, `slices 4 and 5`."""
    names = [str(number) for number in sorted(numbers)]
    return f"slice{'' if len(names) == 1 else 's'} {' and '.join(names) or '(none)'}"
