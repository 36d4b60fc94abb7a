"""Statements that are composed once for each value they are made of, not anew for every batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Concatenate, ParamSpec, TypeVar

from psycopg import sql

T = TypeVar("T")
P = ParamSpec("P")


def made_once(
    make: Callable[Concatenate[T, P], sql.Composed],
) -> Callable[Concatenate[T, P], sql.SQL]:
    """Compose a statement once for each first argument, which has a hash, and each form."""

    @lru_cache(maxsize=128)
    @wraps(make)
    def flat(of: T, *args: P.args, **kwargs: P.kwargs) -> sql.SQL:
        return sql.SQL(make(of, *args, **kwargs).as_string(None))

    return flat  # type: ignore[return-value]  # lru_cache hides the signature
