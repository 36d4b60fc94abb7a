"""constraints.txt pins what is installed, and says nothing about where it came from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]


def pins() -> dict[str, str]:
    """Version by canonical name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pinned}


def requirements() -> list[str]:
    """What pyproject.toml asks for: the project, the extras that `make venv` installs, dev."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    return [
        *project["project"]["dependencies"],
        *extras["demo"],
        *extras["flower"],
        *project["dependency-groups"]["dev"],
    ]


def test_every_line_is_a_name_and_a_version() -> None:
    """No address, hash, path or option of one machine gets into constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    strange = [
        line
        for line in lines
        if not line.startswith("# ") and not re.fullmatch(r"[\w.-]+==\d[\w.]*", line)
    ]
    assert strange == []


@pytest.mark.parametrize("text", requirements())
def test_what_is_required_is_pinned_within_its_range(text: str) -> None:
    """A requirement changed in pyproject.toml alone fails here: run `make constraints`."""
    requirement = Requirement(text)
    version = pins().get(canonicalize_name(requirement.name))
    assert version is not None
    assert requirement.specifier.contains(version)
