"""The log's lines: one form for our events and for what the standard library's loggers are told."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import structlog

from backfill.errors import UnreachableError
from backfill.watch import logs

FORKS = """
import os, sys, threading
import structlog
from backfill.watch import logs

logs.configure("json", "info")
log = structlog.get_logger("backfill")

def talk():
    while True:
        log.info("parent.spoke")

threading.Thread(target=talk, daemon=True).start()
for _ in range(100):
    child = os.fork()
    if not child:
        log.info("child.spoke")
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
def theirs() -> Iterator[logging.Logger]:
    """A logger of some library's."""
    logger = logging.getLogger("some.library")
    logger.propagate = False
    yield logger
    logger.handlers.clear()


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().err.splitlines()[-1])
    return found


def test_a_record_of_a_library_has_the_form_of_our_events(
    theirs: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("json", "info")
    logs.take_over(theirs, logging.INFO)
    structlog.get_logger("backfill").warning("batch.failed", slice=3)
    ours = last_line(capsys)
    theirs.warning("%d of %s\n", 3, "these")
    line = last_line(capsys)
    assert ours["logger"] == "backfill"
    assert (line["event"], line["logger"]) == ("3 of these", "some.library")
    assert line["level"] == ours["level"] == "warning"
    assert line.keys() == ours.keys() - {"slice"}
    assert line["timestamp"].endswith("Z")
    theirs.debug("nobody asked for it")
    assert not capsys.readouterr().err


def test_on_a_console_it_is_a_line_for_people(
    theirs: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("console", "info")
    logs.take_over(theirs, logging.INFO)
    theirs.warning("it rains")
    line = capsys.readouterr().err
    assert "it rains" in line
    assert "warning" in line
    assert "{" not in line


def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_exception_is_its_type_and_where_it_arose_is_for_debug_only(
    theirs: logging.Logger, capsys: pytest.CaptureFixture[str], form: Any
) -> None:
    """Its message may quote a row, as DETAIL does."""
    error = psycopg.errors.UniqueViolation("duplicate\nDETAIL: Key (email)=(ada@x.org)")
    with pytest.raises(psycopg.Error):
        fail(error)
    for level in ("info", "debug"):
        logs.configure(form, level)
        logs.take_over(theirs, logging.INFO)
        theirs.error("it failed", exc_info=error)
        structlog.get_logger("backfill").error("it.failed", exc_info=error)
        told = capsys.readouterr().err
        assert told.count("UniqueViolation") == 2
        assert told.count("in fail") == (2 if level == "debug" else 0)
        assert "ada@x.org" not in told


def test_an_error_of_ours_is_told_in_full(
    theirs: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("json", "info")
    logs.take_over(theirs, logging.INFO)
    theirs.error("it failed", exc_info=UnreachableError("nobody is there", remedy="Wait."))
    assert last_line(capsys)["error"] == "UnreachableError: nobody is there"


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("redis://:secret@host:6379/0 is away", "redis://:**@host:6379/0 is away"),
        ("at postgresql://ada:se/cr@et@host/db", "at postgresql://ada:**@host/db"),
        ("https://host:443/path", "https://host:443/path"),
    ],
)
def test_a_password_in_a_url_is_masked(
    theirs: logging.Logger, capsys: pytest.CaptureFixture[str], told: str, shown: str
) -> None:
    logs.configure("json", "info")
    logs.take_over(theirs, logging.INFO)
    theirs.warning("%s", told)
    assert last_line(capsys)["event"] == shown


def test_a_record_that_does_not_fit_its_own_format_is_a_line_all_the_same(
    theirs: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("json", "info")
    logs.take_over(theirs, logging.INFO)
    theirs.warning("%d rows", "many")
    line = last_line(capsys)
    assert (line["event"], line["error"]) == ("%d rows", "TypeError")


def test_a_child_that_was_forked_while_a_thread_wrote_a_line_can_write_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS],
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    lines = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert lines.count("child.spoke") == 100
