"""SQL fragments that a user writes: `where`, `todo`, and the expressions of `Sql`.

The engine puts each fragment between parentheses of its own, so that `where` and `todo` can be
joined by AND. A fragment that closes a parenthesis too many, or ends in a line comment, would
change the statement around it without a word; such a fragment is refused when it is declared.

The scanner knows PostgreSQL's lexical rules (strings, E-strings, quoted identifiers, dollar
quotes, comments) and nothing of its grammar: the preflight asks the server about the rest.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from itertools import pairwise
from typing import NamedTuple

#: Prefix of the placeholders of declared parameters, clear of the engine's own placeholders.
PLACEHOLDER_PREFIX = "p_"

_PERCENT = re.compile(r"%(?:\((\w+)\)s)?")

_TOKEN = re.compile(
    r"""
      (?P<line_comment> --[^\n]* )
    | (?P<comment> /\*(?:(?!/\*|\*/).)*\*/ )
    | (?P<string> [eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' )
    | (?P<quoted> "(?:[^"]|"")*" )
    | (?P<dollar> \$(?P<tag>(?:[^\W\d]\w*)?)\$.*?\$(?P=tag)\$ )
    | (?P<placeholder> %\(\w+\)s )
    | (?P<unterminated> [eE]' | ['"] | /\* | \$(?:[^\W\d]\w*)?\$ )
    | (?P<word> [^\W\d][\w$]* )
    | (?P<open> [(\[] )
    | (?P<close> [)\]] )
    | (?P<semicolon> ; )
    """,
    re.VERBOSE | re.DOTALL,
)

_QUOTING = frozenset({"line_comment", "comment", "string", "quoted", "dollar"})
_LOCKS = frozenset({"UPDATE", "SHARE", "NO", "KEY"})
_CLOSED_BY = {"(": ")", "[": "]"}


class Token(NamedTuple):
    """A piece of a fragment: its kind (a group of the scanner's pattern), text and end."""

    kind: str
    text: str
    end: int


def mistake_in(fragment: object) -> str | None:
    """What is wrong with a fragment's shape, as the end of a sentence; None: nothing.

    >>> mistake_in("a > 1) OR (b")
    'closes a parenthesis that it did not open'
    """
    if not isinstance(fragment, str):
        return f"is of type {type(fragment).__name__}, not text"
    if not fragment.strip():
        return "is empty"
    if "\0" in fragment:
        return "has a NUL character in it"
    return _mistake_among(fragment.strip())  # a comment's last newline goes with the other spaces


def _mistake_among(fragment: str) -> str | None:
    open_brackets: list[str] = []
    last: Token | None = None
    for token in _tokens(fragment):
        last = token
        match token.kind:
            case "unterminated":
                return f"opens {token.text} and does not close it"
            case "semicolon":
                return "has a semicolon in it: it is one expression, not a statement"
            case "open":
                open_brackets.append(_CLOSED_BY[token.text])
            case "close":
                if not open_brackets or open_brackets.pop() != token.text:
                    return "closes a parenthesis that it did not open"
    if open_brackets:
        return "opens a parenthesis and does not close it"
    if last is not None and last.kind == "line_comment" and last.end == len(fragment):
        return "ends in a comment, which would hide what the engine writes after it"
    return None


def first_word(fragment: str) -> str | None:
    """The word that a fragment begins with, comments aside, in capitals; None: no word.

    >>> first_word("/* all */ (select 1)")
    'SELECT'
    """
    for token in _tokens(fragment):
        if token.kind == "word":
            return token.text.upper()
        if token.kind not in {"line_comment", "comment"} and token.text != "(":
            return None
    return None


def locks_rows(fragment: str) -> bool:
    """True when a SELECT in it takes row locks: FOR UPDATE, FOR SHARE and the like."""
    words = [token.text.upper() for token in _tokens(fragment) if token.kind == "word"]
    return any(one == "FOR" and next_ in _LOCKS for one, next_ in pairwise(words))


def placeholders(fragment: str) -> frozenset[str]:
    """The names in `%(name)s` that stand where a value can stand."""
    return frozenset(token.text[2:-2] for token in _tokens(fragment) if token.kind == "placeholder")


def quoted_placeholders(fragment: str) -> frozenset[str]:
    """The names in `%(name)s` inside quotes or comments, where no value can be bound."""
    return frozenset(
        name
        for token in _tokens(fragment)
        if token.kind in _QUOTING
        for name in _PERCENT.findall(token.text)
        if name
    )


def sql_fragment(text: str, params: Collection[str]) -> str:
    """The fragment as psycopg wants it.

    `%(since)s` of a declared parameter becomes `%(p_since)s`; every other `%` becomes `%%`.

    >>> sql_fragment("year >= %(since)s AND code LIKE 'a%'", {"since"})
    "year >= %(p_since)s AND code LIKE 'a%%'"
    """

    def replace(match: re.Match[str]) -> str:
        name: str | None = match[1]
        if name is not None and name in params:
            return f"%({PLACEHOLDER_PREFIX}{name})s"
        return f"%{match[0]}"

    return _PERCENT.sub(replace, text)


def _tokens(fragment: str) -> Iterator[Token]:
    for match in _TOKEN.finditer(fragment):
        # the group that closed last is the outer one, never the tag inside a dollar quote
        yield Token(str(match.lastgroup), match[0], match.end())
