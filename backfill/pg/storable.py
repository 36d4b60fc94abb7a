"""Text as PostgreSQL can store it.

An exception of a user's code may quote anything: a file's name that is no UTF-8, a value that was
refused because of its NUL. Where the ledger takes such text over, as it is, the statement fails
each time, and what was to be told is lost with it: a run would neither work nor be paused.
"""

from __future__ import annotations

from collections.abc import Mapping


def storable(text: str) -> str:
    """The text, with a mark in place of each half of a surrogate pair and of each NUL."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\x00", "�")


def storable_json(value: object) -> object:
    """A value for a jsonb column, with all of its texts storable."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, Mapping):
        return {storable_json(key): storable_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [storable_json(one) for one in value]
    return value
