"""Texts of a megabyte, wherever one can be given: a short error, its exit code, and soon.

A shell hands over 128 KiB in one word; these are larger, as a program may hand them over. Smaller
mistakes are in test_every_mistake.py.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from click.testing import Result

MEGABYTE = 1024 * 1024
#: What is meant to break quoting, formats and terminals; and what slow patterns choke on.
TEXTS = {"hostile": "'; DROP TABLE t; -- %s {0} $(x) 🐘 \x1b[2J", "digits": "7"}
#: The most that anybody wants to read of an error; and what of the processor's time it may take.
LINES, CHARACTERS, SECONDS = 20, 4_000, 10.0

JOB = """
from backfill import *

class Fill(Job):
    source = Table("t", todo="n IS NULL")
    transform = Sql(n="1")
    target = Update()
    since = Param(int, default=1)
    at = Param(str, default="")
"""


def large(kind: str) -> str:
    """A megabyte of it."""
    pattern = TEXTS[kind]
    return (pattern * (MEGABYTE // len(pattern.encode()) + 1))[:MEGABYTE]


Check = Callable[..., Result]


@pytest.fixture
def refused(
    invoke: Callable[..., Result], tmp_path: Path, db_url: str, conn: psycopg.Connection
) -> Check:
    """Give a command in a project; it must be refused as people want to be told."""
    conn.execute("CREATE TABLE t (id int PRIMARY KEY, n int)")

    def check(*words: str, codes: set[int], files: dict[str, str] | None = None) -> Result:
        everything = {
            "backfill.toml": 'jobs = ["goods"]\n',
            "goods.py": JOB,
            ".env": f"BACKFILL_DATABASE_URL={db_url}\n",
            **(files or {}),
        }
        for name, text in everything.items():
            (tmp_path / name).write_text(text, encoding="utf-8")
        sys.modules.pop("goods", None)
        began = time.process_time()
        done = invoke(*words)
        seconds = time.process_time() - began
        told = done.stderr
        assert done.exit_code in codes, (done.exit_code, told[:500], done.exception)
        assert isinstance(done.exception, SystemExit), done.exception
        assert "Traceback" not in told
        assert told.strip()
        assert len(told) <= CHARACTERS, f"{len(told)} characters: {told[:300]}"
        assert len(told.splitlines()) <= LINES
        assert seconds < SECONDS, f"{seconds:.1f} s"
        return done

    return check


#: Words of a command; {} is the large one.
WORDS = [
    ["{}"],
    ["status", "{}"],
    ["check", "{}"],
    ["check", "fill", "-p", "since={}"],
    ["check", "fill", "-p", "{}=1"],
    ["check", "fill", "-p", "{}"],
    ["run", "fill", "--from", "{}"],
    ["run", "fill", "--to", "{}"],
    ["run", "fill", "--limit", "{}"],
    ["run", "fill", "--rate", "{}"],
    ["run", "fill", "--window", "{}"],
    ["run", "fill", "--start-at", "{}"],
    ["run", "fill", "--set", "{}"],
    ["run", "fill", "--set", "lock={}"],
    ["new", "{}"],
    ["schedule", "add", "{}", "fill", "--cron", "0 2 * * *"],
    ["schedule", "add", "nights", "fill", "--cron", "{}"],
    ["schedule", "add", "nights", "fill", "--cron", "0 2 * * *", "--zone", "{}"],
    ["--project", "{}", "list"],
]


@pytest.mark.parametrize("kind", TEXTS)
def test_words_of_a_megabyte_are_refused(refused: Check, kind: str) -> None:
    for words in WORDS:
        refused(*(word.replace("{}", large(kind)) for word in words), codes={2, 3})


#: By file: contents, {} is the large text.
FILES = [
    ("backfill.toml", "{}"),
    ("backfill.toml", 'jobs = ["""{}"""]'),
    ("backfill.toml", 'jobs = ["goods"]\n"{}" = 1'),
    ("backfill.toml", 'jobs = ["goods"]\n[engine]\nlease_seconds = """{}"""'),
    ("backfill.toml", 'jobs = ["goods"]\n[databases."{}"]\nurl_env = "X"\nurls = 1'),
    ("backfill.toml", 'jobs = ["goods"]\n[databases.main]\nurl_env = """{}"""'),
    (".env", "BACKFILL_DATABASE_URL={}"),
    (".env", "BACKFILL_DATABASE_URL=postgresql://u:p@127.0.0.1:{}/x"),
    (".env", "BACKFILL_DATABASE_URL=postgresql://u:p@127.0.0.1:1/{}"),
    (".env", "{}"),
    ("goods.py", "{}"),
    ("goods.py", JOB.replace('"t"', '"""{}"""')),
    ("goods.py", JOB.replace('"n IS NULL"', '"""{}"""')),
    ("goods.py", JOB.replace('n="1"', 'n="""{}"""')),
    ("goods.py", JOB.replace('n="1"', '{{"""{}""": "1"}}')),
    ("goods.py", JOB.replace("target =", 'name = """{}"""\n    target =')),
    ("goods.py", JOB.replace("target =", 'options = Options(window="""{}""")\n    target =')),
]


def test_files_with_a_megabyte_of_nonsense_are_refused(
    refused: Check, conn: psycopg.Connection
) -> None:
    for file, contents in FILES:
        text = contents.replace("{{", "{").replace("}}", "}").replace("{}", large("hostile"))
        refused("run", "fill", codes={2, 3, 4}, files={file: text})
    assert conn.execute("SELECT FROM backfill.run").fetchall() == []
