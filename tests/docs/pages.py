"""The pages of the documentation, taken apart: blocks of code, tables, headings, links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^```(\w*)$")
_VARIABLE = re.compile(r"([A-Z_]+)=(.*)")
_COMMENT = re.compile(r"^<!-- (.*) -->$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of code.

    Attributes:
        line: of its first line in the page, from 1.
        marker: the text of a comment in the line before it; empty where there is none.
    """

    page: Path
    line: int
    language: str
    text: str
    marker: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def name_of(page: Path) -> str:
    """A page as pytest shows it."""
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> list[Block]:
    """The page's blocks in these languages, in their order; all without any."""
    found: list[Block] = []
    inside: list[str] | None = None
    language = marker = ""
    first = 0
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if inside is not None and line == "```":
            found.append(Block(page, first, language, "\n".join(inside), marker))
            inside, marker = None, ""
        elif inside is not None:
            inside.append(line)
        elif fence is not None:
            inside, language, first = [], fence[1], number + 1
        else:
            comment = _COMMENT.match(line)
            marker = "" if comment is None else comment[1]
    assert inside is None, f"{page}: a block is not closed"
    return [block for block in found if not languages or block.language in languages]


def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return re.sub(
        r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )


def story_of(page: Path) -> str | None:
    """What the page's story begins with, where the whole page is one: `empty`, `flights`.

    One that is `apart` is played by a test of its name.
    """
    match = re.search(r"^<!-- story: (\w+) -->$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return None if match is None else match[1]


def sections(page: Path, level: str = "##") -> dict[str, str]:
    """The text under each heading of that level, by the heading."""
    parts = re.split(rf"^{level} (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def table(text: str, first_header: str) -> list[list[str]]:
    """The rows of the table whose first column has that header, as texts without backticks."""
    return [[cell.replace("`", "") for cell in row] for row in raw_table(text, first_header)]


def raw_table(text: str, first_header: str) -> list[list[str]]:
    """The same with the backticks."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(f"| {first_header} |"):
            next(lines)
            return [_cells(row) for row in _rows(lines)]
    raise AssertionError(f"there is no table of {first_header}")


def _rows(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        if not line.startswith("|"):
            return
        yield line


def _cells(row: str) -> list[str]:
    parts = re.split(r"(?<!\\)\|", row)[1:-1]
    return [part.strip().replace("\\|", "|") for part in parts]


def commands(block: Block) -> list[str]:
    """What is typed in a console block."""
    return [line[2:] for line in block.text.splitlines() if line.startswith("$ ")]


def taken_apart(command: str) -> tuple[dict[str, str], list[str]]:
    """The variables that are set for it alone (`NAME=value` before it), and its words."""
    words = shlex.split(command)
    variables = {}
    while words and (match := _VARIABLE.fullmatch(words[0])) is not None:
        variables[match[1]] = match[2]
        del words[0]
    return variables, words


def anchors(page: Path) -> set[str]:
    """The page's headings as GitHub makes anchors of them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
