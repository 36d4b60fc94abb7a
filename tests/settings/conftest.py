"""Folders with settings in them, and what a mistake in one must look like."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from backfill.errors import ExitCode, ProjectError
from backfill.settings import load

Project = Callable[..., Path]
URL = "postgresql://ann:s3cret@db.example:5432/shop"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Makes a folder with these files in it; by default with an empty backfill.toml."""

    def make(toml: str | None = "", /, *, under: str = "p", **files: str) -> Path:
        folder = tmp_path / under
        folder.mkdir(parents=True, exist_ok=True)
        names = {"pyproject": "pyproject.toml", "env": ".env"}
        if toml is not None:
            (folder / "backfill.toml").write_text(toml, encoding="utf-8")
        for name, text in files.items():
            (folder / names[name]).write_text(text, encoding="utf-8")
        return folder

    return make


def refused(folder: Path, environ: Mapping[str, str] | None = None) -> ProjectError:
    with pytest.raises(ProjectError) as caught:
        load(folder, environ or {})
    assert caught.value.exit_code is ExitCode.PROJECT
    return caught.value
