"""One row of the source, as a Python transform sees it.

Rows are made by the thousand for each batch, so that a row is one slot holding the tuple that
psycopg returned; the columns' names live in a class made once per list of columns.

Invariant: a row's values never show in its text. Tracebacks and logs quote `repr`, and rows are
personal data (DESIGN.md, "Errors by class").
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import repeat
from typing import Any, ClassVar, NoReturn

from backfill.job.suggestion import did_you_mean


class Row(Mapping[str, Any]):
    """A read-only mapping from column to value: `row.email` is `row["email"]`.

    A column that is called like a method of a mapping (`keys`, `items`, `values`, `get`), or that
    is no Python name, is reached by `row["keys"]`; `row.keys` is the method. The key's columns
    are always there, whatever the source's `columns` say.
    """

    __slots__ = ("_row_values",)

    _row_values: tuple[Any, ...]
    _row_columns: ClassVar[tuple[str, ...]] = ()
    _row_index: ClassVar[Mapping[str, int]] = {}
    _row_key_columns: ClassVar[tuple[str, ...]] = ()

    def __getitem__(self, column: str) -> Any:
        return self._row_values[self._row_index[column]]

    def __getattr__(self, name: str) -> Any:
        # only names that are no column come here: columns are properties of the row's own class
        if name.startswith("__"):
            raise AttributeError(name)
        raise AttributeError(
            f"the row has no column {name}. {did_you_mean(name, self._row_columns)}"
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._row_columns)

    def __len__(self) -> int:
        return len(self._row_columns)

    def __contains__(self, column: object) -> bool:
        return column in self._row_index

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f'rows are read-only: return {{"{name}": ...}} from the transform')

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"rows are read-only: {name} was not deleted")

    def __repr__(self) -> str:
        return f"Row({', '.join(self._row_columns)})"

    def __reduce__(self) -> tuple[Any, ...]:
        # the class is made at run time, so that pickle cannot find it by name
        return _rebuild, (self._row_columns, self._row_key_columns, self._row_values)


#: dir() and not hasattr(), which would find the metaclass's `mro` and `register`, too.
_TAKEN = frozenset(dir(Row))

_set_values = Row.__dict__["_row_values"].__set__


class RowFactory:
    """Makes the rows of one source: `factory(values) -> Row`.

    Args:
        columns: the names, in the order of the values; each once.
        key_columns: the key's columns, all of them among `columns`.

    Raises:
        ValueError: a column twice, or a key's column that is not there.
    """

    __slots__ = ("_row_class", "columns", "key_columns")

    def __init__(self, columns: Sequence[str], key_columns: Sequence[str]) -> None:
        self.columns = tuple(columns)
        self.key_columns = tuple(key_columns)
        self._row_class = _row_class(self.columns, self.key_columns)

    def __call__(self, values: Sequence[Any]) -> Row:
        row_class = self._row_class
        row = row_class.__new__(row_class)
        _set_values(row, values)
        return row

    def many(self, lines: Sequence[Sequence[Any]]) -> list[Row]:
        """The rows of a page; without a Python call for each."""
        row_class = self._row_class
        rows = list(map(row_class.__new__, repeat(row_class, len(lines))))
        deque(map(_set_values, rows, lines), maxlen=0)
        return rows


def key_of(row: Row) -> tuple[Any, ...]:
    """The values of the row's key, in the key's order; a tuple for a single column, too.

    Raises:
        TypeError: it is no row of a source.
    """
    if not isinstance(row, Row):
        raise TypeError(f"key_of takes a row of the source, not a {type(row).__name__}")
    index = row._row_index
    values = row._row_values
    return tuple([values[index[column]] for column in row._row_key_columns])


@lru_cache(maxsize=256)
def _row_class(columns: tuple[str, ...], key_columns: tuple[str, ...]) -> type[Row]:
    index = {column: position for position, column in enumerate(columns)}
    if len(index) < len(columns):
        raise ValueError(f"a column is named twice: {', '.join(columns)}")
    if missing := set(key_columns) - set(columns):
        raise ValueError(f"the key's columns are not read: {', '.join(sorted(missing))}")
    namespace: dict[str, object] = {
        "__slots__": (),
        "__module__": Row.__module__,
        "__doc__": Row.__doc__,
        "_row_columns": columns,
        "_row_index": index,
        "_row_key_columns": key_columns,
    }
    for column, position in index.items():
        # what Row has already stays the method; such a column is reached by row["keys"]
        if column not in _TAKEN and not column.startswith("__"):
            namespace[column] = property(_getter(position))
    return type("Row", (Row,), namespace)


def _getter(position: int) -> Callable[[Row], Any]:
    def value(row: Row) -> Any:
        return row._row_values[position]

    return value


def _rebuild(
    columns: tuple[str, ...], key_columns: tuple[str, ...], values: tuple[Any, ...]
) -> Row:
    return RowFactory(columns, key_columns)(values)
