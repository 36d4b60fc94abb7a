"""Pages that tell a story are played from top to bottom, as a reader would type them: reader.py."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from backfill.errors import ExitCode
from tests.docs.pages import PAGES, ROOT, Block, blocks, name_of, story_of
from tests.docs.reader import DONE, Reader, check_events, plain_lines, steps


def play(reader: Reader, page: Path) -> None:
    for block in blocks(page, *DONE):
        reader.do(block)
    check_events(reader.database)


def stories(kind: str) -> list[Path]:
    return [page for page in PAGES if story_of(page) == kind]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", stories("empty"), ids=name_of)
def test_a_page_that_begins_with_nothing_can_be_typed_from_top_to_bottom(
    reader: Reader, page: Path
) -> None:
    play(reader, page)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", stories("flights"), ids=name_of)
def test_a_page_about_the_flights_can_be_typed_from_top_to_bottom(
    reader: Reader, page: Path, flights_url: str, redis_url: str
) -> None:
    (reader.folder / "backfill.toml").write_text('jobs = ["jobs"]\n', encoding="utf-8")
    (reader.folder / "jobs").mkdir()
    (reader.folder / "jobs" / "__init__.py").write_text("", encoding="utf-8")
    (reader.folder / ".env").write_text(
        f"BACKFILL_DATABASE_URL={flights_url}\nBACKFILL_REDIS_URL={redis_url}\n", encoding="utf-8"
    )
    play(reader, page)


@pytest.mark.parametrize("page", stories("pytest"), ids=name_of)
def test_a_page_about_tests_can_be_typed_from_top_to_bottom(
    page: Path, db_url: str, tmp_path: Path
) -> None:
    for block in blocks(page, "python"):
        file = tmp_path / block.text.splitlines()[0].removeprefix("# ")
        file.parent.mkdir(exist_ok=True)
        file.write_text(block.text, encoding="utf-8")
    ((command, shown),) = [
        (block.text.splitlines()[0], block.text) for block in blocks(page, "console")
    ]
    done = subprocess.run(
        [sys.executable, *shlex.split(command.removeprefix("$ python"))],
        cwd=tmp_path,
        # without the plugins of our own environment, which take longer than the tests
        env={
            **os.environ,
            "TEST_DATABASE_URL": db_url,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert plain_lines(done.stdout) == plain_lines(shown)[1:]


def test_every_story_is_played() -> None:
    told = {page for page in PAGES if story_of(page) is not None}
    apart = stories("apart")
    assert told == {*stories("empty"), *stories("flights"), *stories("pytest"), *apart}
    assert told
    for page in apart:
        assert (ROOT / "tests" / "docs" / f"test_{page.stem.replace('-', '_')}.py").exists()


def test_a_page_that_shows_what_is_not_so_is_found_out() -> None:
    (right,) = steps(_block("$ backfill list\nfill_x-7g5gz has 3 rows\n"))
    assert right.mismatch("fill_x-k2m9t has 41 rows\n") is None
    assert right.mismatch("fill_x-k2m9t has no rows\n") is not None
    assert right.mismatch("fill_x-k2m9t has 3 rows\nand a warning\n") is not None
    (open_ended,) = steps(_block("$ backfill run x\n…\nlast\n$ echo $?\n6"))
    assert open_ended.code == ExitCode.QUARANTINE
    assert open_ended.mismatch("first\nlast") is None
    assert open_ended.mismatch("first") is not None


def _block(text: str) -> Block:
    return Block(ROOT / "README.md", 1, "console", text, "")
