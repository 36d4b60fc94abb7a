"""Rows to be written, sorted out by what one statement can write, and what a write did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from backfill.model import Key
from backfill.pg.values import Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a write did.

    Attributes:
        rows: rows that the statement reports.
        keys: keys of the source whose write took effect.
        missing: keys whose write reported nothing: a conflict skipped it, a trigger suppressed it.
        unfit: keys whose values cannot be written at all, and why.
    """

    rows: int
    keys: int
    missing: int
    unfit: Sequence[tuple[Key, str]] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """One row to be written: the key of its source row, its columns and their texts."""

    key: Key
    columns: tuple[str, ...]
    texts: list[Text]


def groups(
    lines: Sequence[Line],
) -> Iterator[tuple[tuple[str, ...], tuple[str | None, ...], list[Line]]]:
    """The lines that one statement can write: the same columns, each read as the same type."""
    # a NULL is of any type: of the one that its column's first value has
    usual: dict[str, str | None] = {}
    for line in lines:
        for column, (text, type_) in zip(line.columns, line.texts, strict=True):
            if text is not None:
                usual.setdefault(column, type_)
    found: dict[tuple[tuple[str, ...], tuple[str | None, ...]], list[Line]] = {}
    for line in lines:
        types = tuple(
            usual.get(column) if text is None else type_
            for column, (text, type_) in zip(line.columns, line.texts, strict=True)
        )
        found.setdefault((line.columns, types), []).append(line)
    for (columns, types), members in found.items():
        yield columns, types, members
