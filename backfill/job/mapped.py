"""Tables that Django or SQLAlchemy know: a model or a table of theirs, named for PostgreSQL.

Neither library is imported: what they document of their classes is read.

- Django quotes `_meta.db_table` as a whole, unless it begins and ends with a double quote; so
  `db_table = '"app"."users"'` names a schema.
- SQLAlchemy quotes schema and name apart, where they need it, but `quoted_name(…, quote=False)`.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

from backfill.errors import DeclarationError


class SQLAlchemyTable(Protocol):
    """A Table, or what `sqlalchemy.table()` gives."""

    @property
    def name(self) -> str: ...

    @property
    def schema(self) -> str | None: ...


#: How a table is named: as PostgreSQL parses it, or by what a library made of it. A class is not
#: told more exactly, because Django ships no types.
TableLike = str | type | SQLAlchemyTable

#: Names that mean the same without quotes; PostgreSQL folds others to small letters.
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")


def mapped_name(owner: str, table: object) -> str | None:
    """The name as PostgreSQL parses it; None: it is nothing of Django's or SQLAlchemy's.

    Args:
        owner: the declaration that names it, such as `Table`; for the message.

    Raises:
        DeclarationError: it is, and has no table of its own.
    """
    options = getattr(table, "_meta", None)
    if hasattr(options, "db_table"):
        return _django(owner, table, options)
    if not isinstance(table, type):
        return _sqlalchemy(table) if _is_sqlalchemy_table(table) else None
    mapped = getattr(table, "__table__", None)
    if _is_sqlalchemy_table(mapped):
        return _sqlalchemy(mapped)
    if mapped is None and not (hasattr(table, "registry") and hasattr(table, "metadata")):
        return None
    raise DeclarationError(
        f"{owner}(...): the class {table.__name__} is mapped to no table",
        remedy=f'Name a class with a table of its own, or the table: {owner}("users").',
    )


def _django(owner: str, model: object, options: Any) -> str:
    if not isinstance(model, type):
        raise DeclarationError(
            f"{owner}(...): the table is an instance of the model {type(model).__name__}",
            remedy=f"Give the class: {owner}({type(model).__name__}).",
        )
    if options.abstract:
        raise DeclarationError(
            f"{owner}(...): the model {model.__name__} is abstract, and has no table",
            remedy="Name a model that inherits from it.",
        )
    name = str(options.db_table)
    if name.startswith('"') and name.endswith('"'):
        return name
    # as Django does: what is between its quotes goes through as it is
    return name if _PLAIN.fullmatch(name) else f'"{name}"'


def _is_sqlalchemy_table(table: object) -> bool:
    # an alias, a sub-query and a CTE have a name and a schema, too
    return getattr(table, "__visit_name__", None) == "table" and hasattr(table, "schema")


def _sqlalchemy(table: Any) -> str:
    return ".".join(_quoted(part) for part in (table.schema, table.name) if part is not None)


def _quoted(name: str) -> str:
    if _PLAIN.fullmatch(name) or getattr(name, "quote", None) is False:
        return str(name)
    escaped = name.replace('"', '""')
    return f'"{escaped}"'
