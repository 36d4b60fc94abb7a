"""Finding the guilty rows of a refused batch by halving, in transactions of their own.

A refused page is split: first its left half is tried, then what is left of it; a page of one row
that is refused goes into quarantine. The pages follow the cursor, so nothing but their sizes has to
be remembered, and a process that dies here loses only these: the next one starts with a full page.
"""

from __future__ import annotations


class Halving:
    """The sizes of the pages that are still to be tried, the next one last."""

    def __init__(self) -> None:
        self._sizes: list[int] = []

    @property
    def is_active(self) -> bool:
        """True while a part of a refused page is still to be tried."""
        return bool(self._sizes)

    def limit(self, rows: int) -> int:
        """The size of the next page, where `rows` would be taken otherwise; at least 1."""
        return min(rows, self._sizes[-1]) if self._sizes else rows

    def refused(self, rows: int) -> None:
        """A page of `rows` rows (2 or more) was refused: try its halves."""
        if self._sizes:
            self._sizes.pop()
        self._sizes += [rows - rows // 2, rows // 2]

    def settled(self) -> None:
        """The page was committed, with or without its one row in quarantine."""
        if self._sizes:
            self._sizes.pop()

    def clear(self) -> None:
        """Forget it: another slice, or the end of this one."""
        self._sizes.clear()
