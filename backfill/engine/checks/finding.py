"""A finding: what was seen of a job's tables or its server, why it matters, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType

from backfill.errors import BackfillError, ProjectError, RefusedError


class Severity(StrEnum):
    """How bad it is: a run is impossible, may do harm or fail, or is only worth knowing of."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found.

    Attributes:
        name: stable, for programs, such as `key-not-unique`.
        message: what was found, naming the job's part and the table.
        why: what follows from it for this job.
        remedy: what to do.
        refusal: the error with which a run is refused for it; of an error only.
    """

    name: str
    severity: Severity
    message: str
    why: str
    remedy: str
    refusal: type[BackfillError] = RefusedError

    def as_error(self) -> BackfillError:
        """The refusal."""
        return self.refusal(self.message, remedy=self.remedy)


def error(
    name: str,
    message: str,
    *,
    why: str,
    remedy: str,
    refusal: type[BackfillError] = RefusedError,
) -> Finding:
    """Something that makes a run impossible."""
    return Finding(
        name=name,
        severity=Severity.ERROR,
        message=message,
        why=why,
        remedy=remedy,
        refusal=refusal,
    )


def warning(name: str, message: str, *, why: str, remedy: str) -> Finding:
    """Something that may do harm, or let the run fail."""
    return Finding(name=name, severity=Severity.WARNING, message=message, why=why, remedy=remedy)


def note(name: str, message: str, *, why: str, remedy: str = "Nothing has to be done.") -> Finding:
    """Something that is worth knowing."""
    return Finding(name=name, severity=Severity.NOTE, message=message, why=why, remedy=remedy)


class Found:
    """Collects findings in the order in which they are made."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def refused(self, name: str, *, why: str) -> _Refused:
        """What refuses the job within becomes a finding, and the block ends there.

        An unreachable server is none.
        """
        return _Refused(self, name, why)

    @property
    def has_errors(self) -> bool:
        return any(finding.severity is Severity.ERROR for finding in self.findings)


class _Refused:
    """A class and no generator, so that mypy knows that the block may end early."""

    def __init__(self, found: Found, name: str, why: str) -> None:
        self._found, self._name, self._why = found, name, why

    def __enter__(self) -> None:
        """Nothing has to be prepared."""

    def __exit__(
        self, _: type[BaseException] | None, refusal: BaseException | None, __: TracebackType | None
    ) -> bool:
        if not isinstance(refusal, ProjectError | RefusedError):
            return False
        self._found.findings.append(
            error(
                self._name,
                refusal.message,
                why=self._why,
                remedy=refusal.remedy,
                refusal=type(refusal),
            )
        )
        return True
