"""Programs of the system that some tests need: where CI has none that fails, elsewhere it skips."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest


def program(*names: str) -> str:
    """The path of the first of these programs that is installed."""
    for name in names:
        found = shutil.which(name)
        if found is not None:
            return found
    return _missing(f"none of these programs is installed: {', '.join(names)}")


def system_postgres() -> Path:
    """The folder of the system's newest PostgreSQL, which has what wheels leave out: ICU."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda path: int(path.parent.parent.name),
    )
    if found:
        return found[-1].parent
    return _missing("no PostgreSQL of the system is installed under /usr/lib/postgresql")


def _missing(what: str) -> NoReturn:
    told = f"{what} (`.ci/programs` installs them)"
    if os.environ.get("CI"):
        pytest.fail(told)
    pytest.skip(told)
