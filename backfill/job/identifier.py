"""Names of tables and columns as a user declares them, checked before any server sees them.

A table is named as PostgreSQL parses it: `flights`, `app.flights`, `"Odd Name"`. Column names are
exact: capitals and spaces count, and no quotes are written.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from backfill.errors import DeclarationError
from backfill.job.mapped import mapped_name

#: PostgreSQL's NAMEDATALEN less one: a longer name cannot exist.
MAX_NAME_BYTES = 63

#: Halves of surrogate pairs, and NUL: no text of PostgreSQL's has them.
_NO_TEXT = r"\0\ud800-\udfff"
_PART = rf'(?:"(?:[^"{_NO_TEXT}]|"")+"|[^\W\d][\w$]*)'
#: What PostgreSQL skips; to it other spaces are letters.
_SPACES = " \t\n\r\f"
_TABLE = re.compile(rf"({_PART})(?:[{_SPACES}]*\.[{_SPACES}]*({_PART}))?")
#: PostgreSQL folds the capitals of ASCII alone (in UTF-8): "É" and "é" are two tables.
_FOLDED = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def table_name(owner: str, table: object) -> str:
    """The table's name, spaces around it taken away.

    Args:
        owner: the declaration that names it, such as `Table`; for the message.
        table: the name, or what Django or SQLAlchemy made of the table (mapped.py).

    Raises:
        DeclarationError: it is no name that PostgreSQL would take.
    """
    if not isinstance(table, str):
        mapped = mapped_name(owner, table)
        if mapped is None:
            raise DeclarationError(
                f"{owner}(...): the table is {_described(table)}, not a name",
                remedy=f'Write the name as text: {owner}("users") or {owner}("app.users"); a Django'
                " model or an SQLAlchemy class or Table serves, too.",
            )
        table = mapped
    name = table.strip(_SPACES)
    if not name:
        raise DeclarationError(
            f"{owner}(...): the table's name is empty", remedy=f'Write {owner}("users").'
        )
    if _TABLE.fullmatch(name) is None:
        quoted = name.replace('"', '""')
        raise DeclarationError(
            f"{owner}({table!r}): that is no table's name for PostgreSQL",
            remedy=f'Write {owner}("users"), {owner}("app.users"), '
            f"or with double quotes for an odd name: {owner}('\"{quoted}\"').",
        )
    for part in _folded(name):
        if len(part.encode()) > MAX_NAME_BYTES:
            raise DeclarationError(
                f"{owner}(...): the table's name {part[:80]!r} has {len(part.encode())} bytes:"
                " PostgreSQL would cut it off, and might find another table",
                remedy=f"Write it as the table is called, with at most {MAX_NAME_BYTES} bytes.",
            )
    return name


def same_table(one: str, other: str) -> bool:
    """True when two valid names are certainly the same table, on any search path."""
    return _folded(one) == _folded(other)


def column_names(owner: str, field: str, names: object) -> tuple[str, ...]:
    """The names, in their order.

    Args:
        owner: the declaration that names them, such as `Table`.
        field: the argument they were given as, such as `columns`.

    Raises:
        DeclarationError: one text instead of a sequence, an empty or doubled name, none at all.
    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        shown = repr(names) if isinstance(names, str) else _described(names)
        raise DeclarationError(
            f"{owner}(...): {field} is {shown}, not a list of names",
            remedy=f'Write {field}=["name", "email"].',
        )
    if not names:
        raise DeclarationError(
            f"{owner}(...): {field} is empty",
            remedy=f'Write {field}=["name", "email"], or leave {field} out.',
        )
    seen: set[str] = set()
    for name in names:
        _check_column(owner, field, name)
        if name in seen:
            raise DeclarationError(
                f"{owner}(...): {field} names {name!r} twice", remedy="Name each column once."
            )
        seen.add(name)
    return tuple(names)


def _check_column(owner: str, field: str, name: object) -> None:
    if not isinstance(name, str):
        raise DeclarationError(
            f"{owner}(...): {field} has {_described(name)} among the names",
            remedy=f'Write each column as text: {field}=["name", "email"].',
        )
    if not name.strip():
        raise DeclarationError(
            f"{owner}(...): {field} has an empty name", remedy='Write a column\'s name: "email".'
        )
    if re.search(f"[{_NO_TEXT}]", name) or len(name.encode()) > MAX_NAME_BYTES:
        raise DeclarationError(
            f"{owner}(...): {field} has {name[:80]!r}, which no column can be called",
            remedy=f"PostgreSQL's names have at most {MAX_NAME_BYTES} bytes of UTF-8, and no NUL.",
        )


def _folded(name: str) -> tuple[str, ...]:
    match = _TABLE.fullmatch(name)
    parts = match.groups() if match else (name,)
    return tuple(
        part[1:-1].replace('""', '"') if part.startswith('"') else part.translate(_FOLDED)
        for part in parts
        if part is not None
    )


def _described(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"of type {type(value).__name__}"
