"""The columns that statements on the ledger ask for, each by its name.

Never `*`: a newer version's upgrade adds columns while this code is at work. What it does not know
it must not get, and a statement that is prepared must go on to return what it did (the server
refuses a cached plan whose result has changed).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import LiteralString


def columns_of(record: type) -> LiteralString:
    """The names of a dataclass's fields, quoted, as the list of a SELECT."""
    return quoted(field.name for field in fields(record))


def quoted(names: Iterable[str], *, of: LiteralString = "") -> LiteralString:
    """The names, quoted, as a list; each of the table `of`, if that is given."""
    prefix = f"{of}." if of else ""
    # names of ours, from the code: nothing that anybody typed
    return ", ".join(f'{prefix}"{name}"' for name in names)
