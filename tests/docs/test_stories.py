"""Pages that tell a story are played from top to bottom, as a reader would type them.

What a page shows of a command's output is compared with what the command says, with numbers, ids,
names of people and machines set aside. A line with `…` alone stands for any lines; without one, the
command says what the page shows and nothing else. `^C` is typed once the line before it is there.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from backfill.errors import ExitCode
from tests.docs.pages import PAGES, ROOT, Block, blocks, name_of, sections, story_of, table

#: The longest wait for what a page shows, five times what the slowest takes.
BOUND_SECONDS = 150.0
#: Commands that only read: what they show may need a moment to become so.
READING = {"status", "list", "events", "quarantine list"}
#: Commands that go on until they are told to end, and how they are told.
ENDLESS = {"backfill worker": signal.SIGTERM, "python servers.py": signal.SIGINT}

_SET_ASIDE = [
    (re.compile(r"\b(\w+)-[2-9a-hjkmnp-tv-z]{5}\b"), r"\1-ID"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT[\d:+.]+"), "INSTANT"),
    (re.compile(r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\b"), "TIME"),
    (re.compile(r"\b[\w.-]+@[\w.-]+"), "WHO"),
    (re.compile(r"\b[\w.-]+:\d+\.\d+\b"), "HOLDER"),
    (re.compile(r"\b\d+ min \d+ s\b"), "# s"),
    (re.compile(r"\d+(?:[.,]\d+)*"), "#"),
    (re.compile(r"\s+"), " "),
]


def plain(line: str) -> str:
    """The line without what differs from one time to the next."""
    for pattern, placeholder in _SET_ASIDE:
        line = pattern.sub(placeholder, line)
    return line.strip()


def plain_lines(text: str) -> list[str]:
    """The lines that say something; a log that a terminal would not get is left out."""
    lines = [line for line in text.splitlines() if not line.startswith("{")]
    return [shown for line in lines if (shown := plain(line))]


@dataclass(frozen=True, slots=True)
class Step:
    """A command, and what the page shows of it.

    Attributes:
        shown: plain lines; `^C` among them where it is typed.
        code: the exit code, as the page shows it by `echo $?`.
    """

    place: str
    command: str
    shown: Sequence[str]
    has_gap: bool
    code: int

    @property
    def endless(self) -> signal.Signals | None:
        return next((s for start, s in ENDLESS.items() if self.command.startswith(start)), None)

    @property
    def only_reads(self) -> bool:
        words = self.command.removeprefix("backfill ")
        return any(words == name or words.startswith(f"{name} ") for name in READING)

    def mismatch(self, said: str) -> str | None:
        """What is missing in, or too much of, what the command said."""
        real = set(plain_lines(said))
        expected = {line for line in self.shown if line != "^C"}
        missing = sorted(expected - real)
        surplus = [] if self.has_gap else sorted(real - expected)
        if not missing and not surplus:
            return None
        return f"{self.place}: $ {self.command}\nmissing: {missing}\nsurplus: {surplus}\n{said}"


def steps(block: Block) -> Iterator[Step]:
    """The commands of a console block; `echo $?` belongs to the one before."""
    parts = re.split(r"^\$ (.+)$", block.text, flags=re.MULTILINE)[1:]
    typed = list(zip(parts[::2], parts[1::2], strict=True))
    for number, (command, shown) in enumerate(typed):
        if command == "echo $?":
            continue
        after = typed[number + 1] if number + 1 < len(typed) else ("", "")
        lines = shown.splitlines()
        yield Step(
            place=block.place,
            command=command,
            shown=[plain(line) for line in lines if line.strip() and line != "…"],
            has_gap="…" in lines,
            code=int(after[1]) if after[0] == "echo $?" else 0,
        )


@dataclass
class Reader:
    """Somebody who does what a page says, in a folder of their own."""

    folder: Path
    environ: dict[str, str]
    url: str | None = None
    started: list[tuple[subprocess.Popen[bytes], signal.Signals]] = field(default_factory=list)
    outputs: int = 0

    def do(self, block: Block) -> None:
        """Write the file, run the SQL, or type the commands."""
        match block.language:
            case "python":
                self._write(block)
            case "sql":
                self._run_sql(block)
            case "console":
                for step in steps(block):
                    self._type(step)

    def _write(self, block: Block) -> None:
        name = block.text.splitlines()[0].removeprefix("# ")
        assert re.fullmatch(r"[\w/]+\.py", name), f"{block.place}: the first line names no file"
        (self.folder / name).parent.mkdir(exist_ok=True)
        (self.folder / name).write_text(f"{block.text}\n", encoding="utf-8")

    def _run_sql(self, block: Block) -> None:
        last = block.text.splitlines()[-1]
        with psycopg.connect(self.database, autocommit=True) as conn:
            cursor = conn.execute(block.text.encode())
            if last.startswith("-- "):
                while cursor.nextset():
                    pass
                row = cursor.fetchone()
                assert row is not None
                assert str(row[0]) == last[3:], block.place

    @property
    def database(self) -> str:
        """The URL: the story's own, else the one that its servers have written."""
        if self.url is None:
            lines = (self.folder / ".env").read_text(encoding="utf-8").splitlines()
            self.url = dict(line.split("=", 1) for line in lines)["BACKFILL_DATABASE_URL"]
        return self.url

    def _type(self, step: Step) -> None:
        if step.endless is not None:
            process, output = self._start(step)
            self.started.append((process, step.endless))
            self._wait_for(step.shown, process, output, step)
            return
        deadline = time.monotonic() + BOUND_SECONDS
        while True:
            said, code = self._finish(step)
            assert code == step.code, f"{step.place}: {step.command} ended with {code}\n{said}"
            wrong = step.mismatch(said)
            if wrong is None:
                return
            assert step.only_reads, wrong
            assert time.monotonic() < deadline, wrong
            time.sleep(0.5)

    def _finish(self, step: Step) -> tuple[str, int]:
        process, output = self._start(step)
        try:
            if "^C" in step.shown:
                before = step.shown[: step.shown.index("^C")]
                self._wait_for(before, process, output, step)
                process.send_signal(signal.SIGINT)
            code = process.wait(BOUND_SECONDS)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return output.read_text(encoding="utf-8"), code

    def _start(self, step: Step) -> tuple[subprocess.Popen[bytes], Path]:
        program, *arguments = shlex.split(step.command)
        start = {"backfill": [sys.executable, "-m", "backfill"], "python": [sys.executable]}
        self.outputs += 1
        output = self.folder.parent / f"output{self.outputs}"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [*start[program], *arguments],
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return process, output

    def _wait_for(
        self,
        lines: Sequence[str],
        process: subprocess.Popen[bytes],
        output: Path,
        step: Step,
    ) -> None:
        deadline = time.monotonic() + BOUND_SECONDS
        while set(lines) - set(plain_lines(output.read_text(encoding="utf-8"))):
            told = f"{step.place}: {step.command}\n{output.read_text(encoding='utf-8')}"
            assert process.poll() is None, told
            assert time.monotonic() < deadline, told
            time.sleep(0.05)

    def leave(self) -> None:
        """End what still runs, the latest first."""
        for process, number in reversed(self.started):
            if process.poll() is None:
                process.send_signal(number)
                try:
                    process.wait(BOUND_SECONDS)
                finally:
                    if process.poll() is None:
                        os.killpg(process.pid, signal.SIGKILL)
                        process.wait()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """A reader in an empty folder, with nothing of this process's own project."""
    (tmp_path / "folder").mkdir()
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BACKFILL_", "PYTEST_", "COV_", "PG"))
    }
    reader = Reader(folder=tmp_path / "folder", environ={**environ, "PYTHONUTF8": "1"})
    try:
        yield reader
    finally:
        reader.leave()


def play(reader: Reader, page: Path) -> None:
    for block in blocks(page, "python", "sql", "console"):
        reader.do(block)
    _check_events(reader.database)


def _check_events(url: str) -> None:
    """What the story left in the ledger has the fields that the reference tells of."""
    text = sections(ROOT / "docs" / "reference" / "events.md")["In the ledger and in the log"]
    documented = {row[0]: set(re.findall(r"\w+", row[3])) for row in table(text, "event")}
    with psycopg.connect(url) as conn:
        written = conn.execute(
            "SELECT DISTINCT name, ARRAY(SELECT jsonb_object_keys(detail)) FROM backfill.event"
        ).fetchall()
    assert written
    for name, keys in written:
        assert set(keys) <= documented[name], name


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
    assert told == {*stories("empty"), *stories("flights"), *stories("pytest")}
    assert told


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
