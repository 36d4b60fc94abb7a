"""How fast a run may go: `"20000/s"`, `"20k/s"`, `"1.5M/h"`, `"600/min"`.

rate   = number ["k" | "M"] "/" unit
number = digits, groups of three separated by "," or "_" if at all, and decimals
unit   = s | min | m | h                    (m is a minute)
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from backfill.errors import UsageError

_FORM = re.compile(
    r"(?P<number>(?:[0-9]{1,3}(?:[,_][0-9]{3})+|[0-9]+)(?:\.[0-9]+)?)(?P<scale>[kKM]?)"
    r"[ ]*/[ ]*(?P<unit>[a-zA-Z]+)"
)
_SCALES: Final = {"": 1, "k": 1_000, "K": 1_000, "M": 1_000_000}
_UNIT_SECONDS: Final = {"s": 1, "min": 60, "m": 60, "h": 3600}
_CANONICAL_UNITS: Final = ("s", "min", "h")
_SLOWEST = 1 / 86_400
_RIGHT_FORM = 'Write it like "20000/s", "20k/s", "600/min" or "1.5M/h".'


@dataclass(frozen=True, slots=True)
class Rate:
    """Rows that all workers together may process in a second.

    `str(rate)` is its canonical text, which parses to an equal rate.

    Attributes:
        rows_per_second: finite, at least one row a day.

    Raises:
        UsageError: the number is out of range.
    """

    rows_per_second: float

    def __post_init__(self) -> None:
        # slower is a pause under another name, and a wait for one row that nobody would notice
        if not (math.isfinite(self.rows_per_second) and self.rows_per_second >= _SLOWEST):
            raise UsageError(
                f"a rate of {self.rows_per_second} rows/s is not possible:"
                " it must be finite and at least one row a day",
                remedy=_RIGHT_FORM,
            )

    @classmethod
    def parse(cls, text: str) -> Rate:
        """The rate that `text` describes, by the grammar of this module.

        Raises:
            UsageError: naming the part that is wrong; the remedy shows the right form.
        """
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise UsageError(f'rate "{text}": not a number of rows per unit', remedy=_RIGHT_FORM)
        unit_seconds = _UNIT_SECONDS.get(match["unit"])
        if unit_seconds is None:
            raise UsageError(
                f'rate "{text}": "{match["unit"]}" is no unit; the units are s, min, m, h',
                remedy=_RIGHT_FORM,
            )
        number = float(match["number"].replace(",", ""))  # float() knows "_" itself
        try:
            return cls(number * _SCALES[match["scale"]] / unit_seconds)
        except UsageError as error:
            raise UsageError(f'rate "{text}": {error.message}', remedy=error.remedy) from None

    def __str__(self) -> str:
        # the first unit in which the number is whole and reads back as the very same float
        for unit in _CANONICAL_UNITS:
            number = round(self.rows_per_second * _UNIT_SECONDS[unit])
            if number / _UNIT_SECONDS[unit] == self.rows_per_second:
                return f"{number}/{unit}"
        return f"{Decimal(repr(self.rows_per_second)):f}/s"
