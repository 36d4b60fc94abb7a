"""What a call of `work` did, and why it came back."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from backfill.model import Counts


class Ended(StrEnum):
    """Why a call of `work` came back."""

    BUDGET = "its time is used up"
    STOPPED = "the worker stops"
    IDLE = "no slice is free"
    NOT_WORKING = "the run does not work now"
    NO_ROOM = "the database has no room for a further slot now"
    SLOT_CLOSED = "the run has fewer slots now"
    SLOT_TAKEN = "another task fills this slot"


@dataclass(slots=True)
class Report:
    """What a call of `work` did; shown as the task's result."""

    ended: Ended = Ended.IDLE
    state: str = ""
    slices: int = 0
    batches: int = 0
    counts: Counts = field(default_factory=Counts)

    def add(self, later: Report) -> None:
        """Add what a later call did, and take over how it ended."""
        self.ended, self.state = later.ended, later.state
        self.slices += later.slices
        self.batches += later.batches
        self.counts += later.counts

    def told(self) -> str:
        """What was done, for people: the task's result in Flower."""
        outcomes = ", ".join(
            f"{value:,} {name}"
            for name, value in self.counts.as_dict().items()
            if value and name != "paged"
        )
        return (
            f"{self.batches} {'batch' if self.batches == 1 else 'batches'}"
            f" in {self.slices} {'slice' if self.slices == 1 else 'slices'}"
            f"{': ' + outcomes if outcomes else ''}; {self.ended} (run {self.state})"
        )
