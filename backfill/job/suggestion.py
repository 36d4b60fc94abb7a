"""The near miss: which known name a wrong one was probably meant to be."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(word: str, known: Iterable[str], *, likeness: float = 0.6) -> str | None:
    """The known name that looks most like `word`, underscores and capitals aside.

    Args:
        likeness: 0 (anything) to 1 (equal), as difflib measures it.
    """
    # only wrong input comes here; keeps difflib out of `import backfill`
    import difflib

    plain = {_plain(name): name for name in known}
    matches = difflib.get_close_matches(_plain(word), plain, n=1, cutoff=likeness)
    return plain[matches[0]] if matches else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence for an error's remedy: the nearest name, else all that there are."""
    names = sorted(known)
    if (match := nearest(word, names)) is not None:
        return f"Did you mean {match}?"
    return f"There are: {', '.join(names)}." if names else "There are none."


def _plain(word: str) -> str:
    return word.replace("_", "").replace("-", "").lower()
