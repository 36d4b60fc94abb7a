"""What was looked at, and how it is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How it is: well, worth knowing, a risk, or such that nothing can work."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """One thing that was looked at.

    Attributes:
        area: `project`, `imports`, `database NAME`, `redis`, `workers` or `clocks`.
        name: stable, for programs, such as `redis-eviction`.
        message: how it is; no secret and no row's value is in it.
        remedy: what to do; empty where nothing has to be done.
    """

    area: str
    name: str
    outcome: Outcome
    message: str
    remedy: str = ""


class Notebook:
    """Collects what was seen in one area, in order."""

    def __init__(self, area: str) -> None:
        self.area = area
        self.items: list[Examined] = []

    def ok(self, name: str, message: str) -> None:
        self._add(name, Outcome.OK, message, "")

    def note(self, name: str, message: str, remedy: str = "") -> None:
        self._add(name, Outcome.NOTE, message, remedy)

    def warning(self, name: str, message: str, remedy: str) -> None:
        self._add(name, Outcome.WARNING, message, remedy)

    def error(self, name: str, message: str, remedy: str) -> None:
        self._add(name, Outcome.ERROR, message, remedy)

    def _add(self, name: str, outcome: Outcome, message: str, remedy: str) -> None:
        self.items.append(
            Examined(area=self.area, name=name, outcome=outcome, message=message, remedy=remedy)
        )
