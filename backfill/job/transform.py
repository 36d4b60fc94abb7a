"""Transforms that PostgreSQL computes: no row leaves the database."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from backfill.errors import DeclarationError
from backfill.job.fragment import mistake_in
from backfill.job.identifier import column_names

_RIGHT = 'Write Sql(email_lower="lower(email)") or Sql({"email lower": "lower(email)"}).'


class Sql:
    """For each column of the target an SQL expression over the source's row.

    The source's table is visible under its own name. `%(name)s` binds a parameter.

    Attributes:
        expressions: SQL by column, in the order of the declaration; read-only.
    """

    __slots__ = ("expressions",)

    expressions: Mapping[str, str]

    def __init__(self, columns: Mapping[str, str] | None = None, /, **named: str) -> None:
        """Declare the expressions; the mapping is for columns that are no Python names.

        Raises:
            DeclarationError: none at all, one that is no single expression, a column twice.
        """
        if columns is not None and not isinstance(columns, Mapping):
            raise DeclarationError(
                f"Sql(...): {columns!r} does not say which column it is for", remedy=_RIGHT
            )
        given: dict[str, str] = dict(columns or {})
        for column, expression in named.items():
            if column in given:
                raise DeclarationError(
                    f"Sql(...): the column {column!r} is named twice", remedy=_RIGHT
                )
            given[column] = expression
        if not given:
            raise DeclarationError("Sql(...): no column is named", remedy=_RIGHT)
        column_names("Sql", "columns", tuple(given))
        for column, expression in given.items():
            if (mistake := mistake_in(expression)) is not None:
                raise DeclarationError(
                    f"Sql(...): the expression for {column!r} {mistake}", remedy=_RIGHT
                )
        object.__setattr__(
            self, "expressions", MappingProxyType({c: e.strip() for c, e in given.items()})
        )

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Sql is read-only; {name} was not set")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sql):
            return NotImplemented
        return self.expressions == other.expressions

    def __hash__(self) -> int:
        return hash(frozenset(self.expressions.items()))

    def __repr__(self) -> str:
        return f"Sql({dict(self.expressions)!r})"
