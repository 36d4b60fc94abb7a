"""The values of a job's secret parameters, kept out of what is told.

A message that somebody else makes may quote one: PostgreSQL's of a cast that failed, an HTTP
client's of the URL that it asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

#: What stands in a secret's place.
HIDDEN = "…"


@dataclass(frozen=True, slots=True)
class Secrets:
    """See the module; no repr shows them.

    Attributes:
        forms: the values in the forms in which messages quote them, longer ones first.
        are_bound: one of them is a value in the job's SQL: what PostgreSQL says of a value there
            may be made of it, and then it is not found by its form.
    """

    forms: tuple[str, ...] = field(default=(), repr=False)
    are_bound: bool = False

    @classmethod
    def of(cls, values: Iterable[object], *, are_bound: bool) -> Secrets:
        """Those of these values."""
        found = {form for value in values for form in _forms(str(value)) if form}
        return cls(tuple(sorted(found, key=len, reverse=True)), are_bound)

    def hidden(self, text: str) -> str:
        """The text without them."""
        for form in self.forms:
            text = text.replace(form, HIDDEN)
        return text


def _forms(text: str) -> Iterable[str]:
    # only errors come here; kept out of the time that `import backfill` takes
    import json
    from urllib.parse import quote, quote_plus

    yield from (text, quote(text), quote(text, safe=""), quote_plus(text))
    yield from (repr(text)[1:-1], json.dumps(text)[1:-1])
