"""What became of a message; loads no Celery, for those who only tell of it."""

from __future__ import annotations

from dataclasses import dataclass

_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Sent:
    """True where the broker took it.

    Attributes:
        why_not: what the broker or the way to it said; empty where it took the message.
    """

    why_not: str = ""

    def __bool__(self) -> bool:
        return not self.why_not

    def warning(self, otherwise: str) -> str:
        """What a person is told of one that was not taken.

        Args:
            otherwise: what happens when Redis is back, in words.
        """
        return f"warning: Redis does not answer ({self.why_not}); {otherwise} when it is back"


def refusal(error: Exception) -> Sent:
    """A message that was not taken, and why: without what may be a URL with its password."""
    said = (str(error).splitlines() or [""])[0][:_LONGEST].rstrip(". ")
    is_shown = said and "://" not in said and "@" not in said
    return Sent(said if is_shown else type(error).__name__)
