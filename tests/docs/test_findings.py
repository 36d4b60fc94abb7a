"""The findings that the reference lists are those that the code makes, with their severity."""

from __future__ import annotations

import ast
from pathlib import Path

import backfill.engine.check
import backfill.engine.checks
from tests.docs.pages import ROOT, raw_table, sections

SEVERITIES = ("error", "warning", "note")


def in_code() -> dict[str, set[str]]:
    """Each finding's severities, from the calls that make it."""
    folder = Path(backfill.engine.checks.__path__[0])
    files = [*folder.glob("*.py"), Path(backfill.engine.check.__file__)]
    made: dict[str, set[str]] = {}
    for file in files:
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match call:
                case ast.Call(
                    func=ast.Name(id="error" | "warning" | "note" as severity),
                    args=[ast.Constant(value=str(name)), *_],
                ):
                    made.setdefault(name, set()).add(severity)
                case ast.Call(
                    func=ast.Attribute(attr="refused"), args=[ast.Constant(value=str(name)), *_]
                ):
                    made.setdefault(name, set()).add("error")
    return made


def in_reference() -> dict[str, set[str]]:
    page = ROOT / "docs" / "reference" / "findings.md"
    listed: dict[str, set[str]] = {}
    for text in sections(page).values():
        if "| finding |" not in text:
            continue
        for names, severity, *_ in raw_table(text, "finding"):
            for name in names.split(", "):
                listed[name.strip("`")] = set(severity.split(", "))
    return listed


def test_the_reference_lists_every_finding_with_its_severity() -> None:
    assert in_reference() == in_code()
