"""How Flower is started: its flags, and what cannot be."""

from __future__ import annotations

import importlib.util
import socket
import subprocess

import pytest

from backfill.cli.flower import flower as command
from backfill.cli.session import Session
from backfill.errors import ProjectError
from tests import starting
from tests.acceptance.crew import Crew


def start(crew: Crew, *flags: str) -> subprocess.CompletedProcess[str]:
    """Start it with flags that end it at once."""
    return starting.run(
        ["-m", "backfill", "flower", *flags], folder=crew.folder, environ=crew.environ
    )


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        # Flower itself would leave it out, and ask nobody to log in
        (["--basic_uath=ann:secret"], "Did you mean basic-auth?"),
        (["--max-tasks=many"], "Flower: --max-tasks: "),
        # Flower itself would listen, and let nobody in
        (["--basic-auth=ann"], "--basic-auth takes a user and a password"),
        (["workers"], "'workers' is no flag"),
    ],
)
def test_a_flag_that_flower_does_not_know_is_an_error(
    crew: Crew, flags: list[str], told: str
) -> None:
    done = start(crew, "--port=0", *flags)
    assert done.returncode == 2
    assert told in done.stderr


def test_a_port_that_is_taken_is_told(crew: Crew) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = start(crew, "--port", str(port))
    assert done.returncode == 5
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr


def test_without_the_extra_it_says_how_to_get_it(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ProjectError, match="not installed") as raised:
        command.main([], standalone_mode=False, obj=Session(crew.folder))
    assert "backfill[flower]" in raised.value.remedy
