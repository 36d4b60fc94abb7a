"""What the help says, and how little it loads."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import backfill
from backfill.cli.examples import EXAMPLES, WITHOUT_RUN, epilog
from backfill.cli.root import cli
from backfill.cli.session import Session
from tests.cli.conftest import clean_environment

PACKAGE = Path(backfill.__file__).parent
HEAVY = {"psycopg", "celery", "kombu", "redis", "rich", "structlog", "tenacity", "flower"}


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name."""
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {sub}", found) for sub, found in command.commands.items())


NAMES = [name for name, _ in commands()]


def test_the_commands_are_those_of_the_public_interface() -> None:
    assert set(NAMES) == {
        *("init", "new", "list", "check", "dry-run", "run", "enqueue", "status", "watch", "flower"),
        *(
            "pause",
            "resume",
            "cancel",
            "retry",
            "events",
            "report",
            "worker",
            "db",
            "db upgrade",
            "db grants",
        ),
        *("tune", "stop-all", "start-all", "doctor"),
        *("quarantine", "quarantine list", "quarantine retry", "quarantine accept"),
        *("schedule", "schedule add", "schedule list", "schedule remove", "schedule next"),
        *("notify", "notify test"),
    }


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"], ["nonsense"]])
def test_what_needs_no_project_loads_no_driver_no_broker_and_no_terminal_library(
    arguments: list[str],
) -> None:
    program = (
        "import sys\n"
        "from backfill.cli.root import cli\n"
        f"try: cli({arguments!r}, prog_name='backfill')\n"
        "except SystemExit: pass\n"
        f"print('LOADED', sorted({HEAVY!r} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=clean_environment(),
    )
    assert "LOADED []" in done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_each_command_is_told_in_one_line_that_fits(name: str) -> None:
    command = dict(commands())[name]
    line = command.get_short_help_str(limit=1_000)
    assert line
    # 80 columns less the names and the margins
    assert len(line) <= 63, line


@pytest.mark.parametrize("name", NAMES)
def test_each_command_gives_examples_that_can_be_typed(name: str, tmp_path: Path) -> None:
    command = dict(commands())[name]
    if isinstance(command, click.Group):
        assert name not in EXAMPLES
        return
    assert command.epilog == epilog(name)
    for example in EXAMPLES[name]:
        words = shlex.split(example.partition(" > ")[0])
        words = words[3:] if words[1] == "--project" else words[1:]
        count = len(name.split())
        assert words[:count] == name.split(), example
        command.make_context(name, words[count:], obj=Session(tmp_path))


def test_what_run_means_is_told_where_it_can_be_given() -> None:
    assert set(WITHOUT_RUN) == {
        name
        for name, command in commands()
        if any(param.name in {"run_text", "run_texts"} for param in command.params)
    }


@pytest.mark.parametrize("name", NAMES)
def test_each_option_is_explained(name: str) -> None:
    options = [p for p in dict(commands())[name].params if isinstance(p, click.Option)]
    assert all(option.help for option in options), name


def test_every_command_that_a_message_tells_one_to_type_exists() -> None:
    """In the whole package, not only here: errors carry remedies."""
    hints: set[str] = set()
    groups = "(?:db |quarantine |schedule )?"
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        hints |= set(re.findall(rf"`backfill ({groups}[a-z][a-z-]*)", text))
        hints |= set(re.findall(rf"\(backfill ({groups}[a-z-]+)", text))
        hints |= set(re.findall(rf"^  backfill ({groups}[a-z-]+)", text, re.MULTILINE))
    assert {"status", "run", "db upgrade", "quarantine list"} <= hints
    assert hints <= set(NAMES)


def test_the_help_names_every_exit_code_and_gives_examples() -> None:
    epilog = cli.epilog or ""
    for code in (0, 1, 2, 3, 4, 5, 6, 7, 130):
        assert re.search(rf"\b{code} ", epilog.split("Exit codes:")[1]), code
    assert "backfill run" in epilog
