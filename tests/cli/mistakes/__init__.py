"""What people give wrong, each with the exit code and the words that it must be told in."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

PASSWORD = "hunter2"


class Place(StrEnum):
    """A database or a Redis that the test keeps; its URL takes the place of the name."""

    GOOD = "a database with runs"
    QUIET = "a database whose ledger is empty"
    BARE = "a database without a ledger"
    OLDER = "a database with an older ledger"
    NEWER = "a database with a newer ledger"
    LOST = "a database whose ledger has lost its identity"
    REDIS = "a Redis"
    WRONG_ROLE = "a database with a role that there is not"
    WRONG_REDIS = "a Redis that another password belongs to"
    POOR = "a database with a role that may do nothing"


#: What a user's environment holds, unless a mistake says otherwise.
USUAL: Mapping[str, str] = {
    "BACKFILL_DATABASE_URL": Place.GOOD,
    "BACKFILL_REDIS_URL": Place.REDIS,
}
#: The settings file, unless a mistake says otherwise.
SETTINGS = 'jobs = ["wares"]\n'


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that somebody gets wrong.

    Attributes:
        given: the command's words.
        code: the documented exit code.
        told: what standard error must hold: the thing, what is wrong, the remedy's words.
        settings: what the settings file holds.
        files: others of the project, by their path.
        environ: variables in place of the usual ones; an empty one is not set.
    """

    given: Sequence[str]
    code: int
    told: Sequence[str]
    settings: str = SETTINGS
    files: Mapping[str, str] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        text = shlex.join(self.given)
        return text if len(text) < 100 else f"{text[:60]}… ({len(text)})"


def mistake(
    given: str | Sequence[str],
    code: int,
    *told: str,
    settings: str = SETTINGS,
    **environ: str,
) -> Mistake:
    """A mistake, its command as one types it or as words."""
    words = shlex.split(given) if isinstance(given, str) else list(given)
    return Mistake(words, code, told, settings, {}, environ)


def with_files(found: Mistake, **files: str) -> Mistake:
    """The same in a project with these modules."""
    return replace(found, files={f"{name}.py": text for name, text in files.items()})
