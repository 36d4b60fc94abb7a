"""Programs of the system that some tests need: where CI has none that fails, elsewhere it skips."""

from __future__ import annotations

import os
import shutil

import pytest


def program(*names: str) -> str:
    """The path of the first of these programs that is installed."""
    for name in names:
        found = shutil.which(name)
        if found is not None:
            return found
    told = f"none of these programs is installed: {', '.join(names)} (`.ci/programs` installs them)"
    if os.environ.get("CI"):
        pytest.fail(told)
    pytest.skip(told)
