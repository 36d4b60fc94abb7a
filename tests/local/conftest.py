"""What the tests of the local servers share: waiting for another process to be gone."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

#: Five times what the slowest step was seen to take.
BOUND_SECONDS = 30


def eventually(true: Callable[[], bool], what: str) -> None:
    """Wait for what another process does, within the bound; fail naming it."""
    deadline = time.monotonic() + BOUND_SECONDS
    while not true():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {BOUND_SECONDS} s: {what}")
        time.sleep(0.02)


Owner = Callable[[str], tuple["subprocess.Popen[str]", list[str]]]


@pytest.fixture
def owner() -> Iterator[Owner]:
    """Run a script that owns a server, up to the line that it prints.

    The script goes on (it waits for its stdin) until the test ends it. Returns the process, and
    the words of its line.
    """
    started: list[subprocess.Popen[str]] = []

    def run(script: str) -> tuple[subprocess.Popen[str], list[str]]:
        process = subprocess.Popen(
            [sys.executable, "-c", script + "\nimport sys; sys.stdin.read()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().split()

    yield run
    for process in started:
        process.communicate("")
