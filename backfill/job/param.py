"""Parameters of a job: declared once, typed for mypy, given anew for each run.

    class FillDeparture(Job):
        since = Param(int, default=2013, help="first year")

`self.since` is an int in a transform, `%(since)s` binds it in SQL, `--param since=2014` and
`enqueue(FillDeparture, since=2014)` set it. The ledger keeps the values with the run.

A secret is never kept: each worker reads it from its own environment, and nothing here puts its
value into a message.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Generic, Never, NoReturn, TypeVar, overload
from uuid import UUID

from backfill.errors import DeclarationError, ProjectError, UsageError
from backfill.job.arguments import arguments

#: The supported types; named here so that mypy refuses another, and a default of another.
T = TypeVar("T", int, float, str, bool, date, datetime, Decimal, UUID)

#: Names that can be a keyword argument, a `--param` and a placeholder alike.
NAME = re.compile(r"[a-z][a-z0-9_]{0,58}")

_NO_DEFAULT: Any = object()
_BIGINT = 2**63
_LONGEST_SHOWN = 80


@arguments('Param(int, default=2013, help="first year")')
class Param(Generic[T]):
    """A parameter of a job; its value is read as an attribute of the job.

    Attributes:
        name: the attribute's name, set when the class is made.
        value_type: int, float, str, bool, date, datetime, Decimal or UUID.
        help: one line for `backfill list` and `--help`.
        secret: True: read from `env` by each worker, stored nowhere.
        env: the environment variable of a secret.
    """

    __slots__ = ("_default", "_kind", "env", "help", "name", "secret", "value_type")

    def __init__(
        self,
        value_type: type[T],
        /,
        *,
        default: T = _NO_DEFAULT,
        help: str = "",  # noqa: A002 - the public interface names it so
        secret: bool = False,
        env: str | None = None,
    ) -> None:
        """Declare a parameter; without a default it has to be given.

        Raises:
            DeclarationError: a type that is not supported, a default of another type, a secret
                without `env` or with a default.
        """
        kind = _kind_of(value_type)
        if kind is None:
            shown = getattr(value_type, "__name__", repr(value_type))
            raise DeclarationError(
                f"Param({shown}): that type is not supported",
                remedy=f"Use one of {', '.join(t.__name__ for t in _KINDS)}.",
            )
        self._kind = kind
        self.value_type: type[T] = value_type
        self.name = ""
        self.help = help
        self.secret = secret
        self.env = env
        self._default: T = default
        self._check_secret()
        if default is not _NO_DEFAULT:
            try:
                self._default = kind.accept(default)
            except (TypeError, ValueError) as error:
                raise DeclarationError(
                    f"Param({value_type.__name__}): the default {_shown(default)} {error}",
                    remedy=f"Write a default such as {kind.example}, or leave it out.",
                ) from None

    def _check_secret(self) -> None:
        right = 'Write Param(str, secret=True, env="GEOCODER_KEY").'
        if self.secret and not self.env:
            raise DeclarationError(
                "Param(secret=True): env is missing, the variable that each worker reads it from",
                remedy=right,
            )
        if self.secret and self._default is not _NO_DEFAULT:
            raise DeclarationError(
                "Param(secret=True): a default would be a secret in a file", remedy=right
            )
        if self.env is not None and not self.secret:
            raise DeclarationError(
                f"Param(env={self.env!r}): only a secret is read from the environment",
                remedy=f"{right} Another parameter has a default, or is given with the run.",
            )

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Param[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> Param[T] | T:
        if instance is None:
            return self
        try:
            value: T = instance.__dict__[self.name]
        except KeyError:
            # a job made by hand, as in a unit test of its transform
            if self._default is _NO_DEFAULT:
                raise UsageError(
                    f"{owner.__name__}: the parameter {self.name} has no value outside a run",
                    remedy=f"Give it one with bind({owner.__name__}, {{{self.name!r}: ...}}).",
                ) from None
            value = self._default
        return value

    def __set__(self, instance: object, value: Never) -> NoReturn:
        raise AttributeError(f"the parameter {self.name} is read-only: a run has one value of it")

    def __repr__(self) -> str:
        return f"Param({self.value_type.__name__}, name={self.name!r})"

    @property
    def type_name(self) -> str:
        """The type as the command line and the ledger name it; says so of a secret."""
        return f"{self.value_type.__name__}{' (secret)' if self.secret else ''}"

    @property
    def required(self) -> bool:
        """True when it must be given with the run."""
        return self._default is _NO_DEFAULT and not self.secret

    @property
    def default(self) -> T:
        """The value where none is given.

        Raises:
            UsageError: it has none.
        """
        if self._default is _NO_DEFAULT:
            raise UsageError(f"the parameter {self.name} has no default")
        default: T = self._default
        return default

    def parse(self, text: str) -> T:
        """The value that was typed on the command line.

        Raises:
            UsageError: it is no such value, or the parameter is a secret.
        """
        self._refuse_secret()
        return self._parse(text)

    def convert(self, value: object) -> T:
        """A Python value, checked; an int serves as a float.

        Raises:
            UsageError: it is of another type, or the parameter is a secret.
        """
        self._refuse_secret()
        return self._accept(value, given=value)

    def to_json(self, value: T) -> object:
        """The value as the ledger keeps it (jsonb): a number, true or false, or text.

        Raises:
            UsageError: it is of another type, or the parameter is a secret.
        """
        return self._kind.to_json(self.convert(value))

    def from_json(self, value: object) -> T:
        """The value that the ledger kept.

        Raises:
            UsageError: it was kept for a parameter of another type, or this one is a secret.
        """
        self._refuse_secret()
        return self._read(self._kind.from_json, value)

    def read_secret(self, environ: Mapping[str, str]) -> T:
        """The secret's value, from the environment of this process.

        Raises:
            ProjectError: the variable is not there, or is no such value; never says which.
        """
        text = environ.get(self.env or "", "")
        try:
            if text:
                return self._parse(text)
            problem = "is not set"
        except UsageError:
            problem = f"is no {self.value_type.__name__}"
        raise ProjectError(
            f"the secret parameter {self.name}: the variable {self.env} {problem}",
            remedy=f"Set {self.env} in the environment of every worker, "
            f"to a value such as {self._kind.example}.",
        )

    def _parse(self, text: str) -> T:
        return self._read(self._kind.parse, text)

    def _read(self, read: Callable[[Any], object], given: object) -> T:
        try:
            value = read(given)
        except (TypeError, ValueError, ArithmeticError):
            raise self._wrong(given) from None
        return self._accept(value, given=given)

    def _accept(self, value: object, *, given: object) -> T:
        try:
            accepted: T = self._kind.accept(value)
        except (TypeError, ValueError) as error:
            raise self._wrong(given, why=str(error)) from None
        return accepted

    def _wrong(self, value: object, why: str = "") -> UsageError:
        what = "its value" if self.secret else _shown(value)
        return UsageError(
            f"the parameter {self.name}: {what} {why or f'is no {self.value_type.__name__}'}",
            remedy=f"Give {self.value_type.__name__} such as {self.name}={self._kind.example}.",
        )

    def _refuse_secret(self) -> None:
        if self.secret:
            raise UsageError(
                f"the parameter {self.name} is a secret and is not given with a run",
                remedy=f"Set {self.env} in the environment of every worker.",
            )


@dataclass(frozen=True, slots=True)
class _Kind:
    """How values of one type are typed, checked and kept.

    Attributes:
        example: the right form, for messages.
        parse: from the command line's text; raises ValueError or ArithmeticError.
        accept: a Python value or what `parse` and `from_json` made; raises TypeError or
            ValueError, whose text ends the sentence "<value> …".
        to_json: to what jsonb keeps without loss.
        from_json: back again; raises TypeError or ValueError.
    """

    example: str
    parse: Callable[[str], object]
    accept: Callable[[object], Any]
    to_json: Callable[[Any], object]
    from_json: Callable[[Any], object]


def _accept_int(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("is no int")
    if not -_BIGINT <= value < _BIGINT:
        raise ValueError("does not fit in a bigint; declare a Decimal")
    return int(value)


def _accept_float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("is no float")
    try:
        return float(value)
    except OverflowError:
        raise ValueError("does not fit in a float") from None


def _accept_str(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("is no str")
    if "\0" in value:
        raise ValueError("has a NUL character, which PostgreSQL cannot keep")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("has half a surrogate pair, which PostgreSQL cannot keep") from None
    return str.__str__(value)


def _accept_bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("is no bool")
    return value


def _accept_date(value: object) -> date:
    # a datetime is a date for Python, and another type for PostgreSQL
    if isinstance(value, datetime) or not isinstance(value, date):
        raise TypeError("is no date")
    return value


def _accept_datetime(value: object) -> datetime:
    if not isinstance(value, datetime):
        raise TypeError("is no datetime")
    return value


def _accept_decimal(value: object) -> Decimal:
    if not isinstance(value, Decimal):
        raise TypeError("is no Decimal")
    if value.is_snan():
        raise ValueError("is a signalling NaN, which PostgreSQL does not have")
    return value


def _accept_uuid(value: object) -> UUID:
    if not isinstance(value, UUID):
        raise TypeError("is no UUID")
    return value


_TRUE = frozenset({"true", "yes", "on", "1"})
_FALSE = frozenset({"false", "no", "off", "0"})


def _parse_bool(text: str) -> bool:
    word = text.strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError(text)
    return word in _TRUE


def _same(value: Any) -> Any:
    return value


def _text(parse: Callable[[str], object]) -> Callable[[Any], object]:
    def from_json(kept: Any) -> object:
        if not isinstance(kept, str):
            raise TypeError(type(kept).__name__)
        return parse(kept)

    return from_json


def _float_from_json(kept: Any) -> object:
    # jsonb gives 1e22 back as an int; text is what is no number
    return float(kept) if isinstance(kept, str) else kept


def _float_to_json(value: float) -> object:
    # jsonb has no NaN and no infinity; Python and PostgreSQL agree on how to spell them
    return value if value - value == 0 else str(value)


_KINDS: dict[type, _Kind] = {
    int: _Kind("2013", int, _accept_int, _same, _same),
    float: _Kind("0.25", float, _accept_float, _float_to_json, _float_from_json),
    str: _Kind("north", _same, _accept_str, _same, _same),
    bool: _Kind("true", _parse_bool, _accept_bool, _same, _same),
    date: _Kind(
        "2013-01-31", date.fromisoformat, _accept_date, date.isoformat, _text(date.fromisoformat)
    ),
    datetime: _Kind(
        "2013-01-31T12:00:00+00:00",
        datetime.fromisoformat,
        _accept_datetime,
        datetime.isoformat,
        _text(datetime.fromisoformat),
    ),
    Decimal: _Kind("12.50", Decimal, _accept_decimal, str, _text(Decimal)),
    UUID: _Kind("6f2c1d1e-8a44-4c3b-9d2e-0b1f5a7c9e10", UUID, _accept_uuid, str, _text(UUID)),
}


def _kind_of(value_type: object) -> _Kind | None:
    return _KINDS.get(value_type) if isinstance(value_type, type) else None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
