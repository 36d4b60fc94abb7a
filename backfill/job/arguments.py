"""Arguments that a part of a job does not take, told as a mistake in its declaration.

Python's own error names neither the part as it is written nor the name that was meant.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from backfill.errors import DeclarationError
from backfill.job.suggestion import did_you_mean

C = TypeVar("C", bound=type)


def arguments(right: str) -> Callable[[C], C]:
    """Check a class's arguments before its `__init__` is called.

    Args:
        right: the class with right arguments, for the remedy.

    Raises:
        DeclarationError: when the class is called: a misspelt, missing or superfluous argument.
    """

    def checking(cls: C) -> C:
        init: Callable[..., None] = cls.__init__  # type: ignore[misc]  # the class's, not an object's
        signature = inspect.signature(init)
        known = [
            name
            for name, parameter in signature.parameters.items()
            if name != "self" and parameter.kind is not parameter.VAR_POSITIONAL
        ]

        @wraps(init)
        def checked(self: object, /, *given: Any, **named: Any) -> None:
            for name in named:
                if name not in signature.parameters:
                    raise DeclarationError(
                        f"{cls.__name__}(...): there is no argument {name}",
                        remedy=f"{did_you_mean(name, known)} Write {right}.",
                    )
            try:
                signature.bind(self, *given, **named)
            except TypeError as error:
                raise DeclarationError(
                    f"{cls.__name__}(...): {error}", remedy=f"Write {right}."
                ) from None
            init(self, *given, **named)

        cls.__init__ = checked  # type: ignore[misc]  # as above
        return cls

    return checking
