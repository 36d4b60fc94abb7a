"""Somebody who does what a page says, from top to bottom, in a folder of their own.

Files are written, SQL is run, commands are typed. What a page shows of a command's output is
compared with what the command says, with numbers, ids, names of people and machines set aside. A
line with `…` alone stands for any lines; without one, the command says what the page shows and
nothing else. `^C` is typed once the line before it is there. A command that is shown to ask
(`Go on? [y/N]: n`) is typed on a terminal, and the answer after its question.
"""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from backfill.url import safe_url
from tests.docs.pages import ROOT, Block, sections, table, taken_apart

#: The longest wait for what a page shows, five times what the slowest takes.
BOUND_SECONDS = 150.0
#: Commands that only read: what they show may need a moment to become so.
READING = {"status", "list", "events", "quarantine list"}
#: Commands that go on until they are told to end, and how they are told.
ENDLESS = {
    "backfill worker": signal.SIGTERM,
    "celery ": signal.SIGTERM,
    "python servers.py": signal.SIGINT,
}
#: Languages of blocks that are done; the others are left to be read.
DONE = ("python", "toml", "ini", "sql", "console")

_ANSWERED = re.compile(r"\[y/N\]: (\w)$")

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
        answers: what is typed after the questions that it asks, in their order.
        code: the exit code, as the page shows it by `echo $?`.
    """

    place: str
    command: str
    shown: Sequence[str]
    has_gap: bool
    code: int
    answers: Sequence[str] = ()

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
            answers=[found[1] for line in lines if (found := _ANSWERED.search(line))],
        )


@dataclass
class Reader:
    """See the module.

    Attributes:
        url: of the database that the page's SQL is for; None: the one in `.env`.
        programs: what the page's commands are here, by their first word.
        stands_for: URLs and places of the page's, and those here that they stand for.
        names: what is called otherwise here, and what it is called on the page.
    """

    folder: Path
    environ: dict[str, str]
    url: str | None = None
    programs: dict[str, list[str]] = field(
        default_factory=lambda: {
            "backfill": [sys.executable, "-m", "backfill"],
            "celery": [sys.executable, "-m", "celery"],
            "python": [sys.executable],
        }
    )
    stands_for: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    started: list[tuple[subprocess.Popen[bytes], signal.Signals]] = field(default_factory=list)
    outputs: int = 0

    def do(self, block: Block) -> None:
        """Write the file, run the SQL, or type the commands."""
        match block.language:
            case "python" | "toml" | "ini":
                self._write(block)
            case "sql":
                self._run_sql(block)
            case "console":
                for step in steps(block):
                    self._type(step)

    def _write(self, block: Block) -> None:
        name, _, text = block.text.removeprefix("# ").partition("\n")
        assert re.fullmatch(r"[\w./-]+", name), f"{block.place}: the first line names no file"
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{self._here(text)}\n", encoding="utf-8")
        if name == ".env":
            path.chmod(0o600)

    def _here(self, text: str) -> str:
        """A text of the page's with what its servers and places are here."""
        for page, real in self.stands_for.items():
            text = text.replace(page, real)
        return text

    def _of_page(self, said: str) -> str:
        """What a command said, as the page says it."""
        for page, real in self.stands_for.items():
            said = said.replace(safe_url(real), safe_url(page))
        for real, page in self.names.items():
            said = said.replace(real, page)
        return said

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
            said, code = self._answer(step) if step.answers else self._finish(step)
            said = self._of_page(said)
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

    def _answer(self, step: Step) -> tuple[str, int]:
        """Type it on a terminal, and the answers after its questions."""
        main, side = pty.openpty()
        process = self._popen(step, stdin=side, stdout=side)
        os.close(side)
        said, answers = b"", list(step.answers)
        deadline = time.monotonic() + BOUND_SECONDS
        try:
            with suppress(OSError):  # the other side is closed: it has ended
                while select.select([main], [], [], max(0.0, deadline - time.monotonic()))[0]:
                    said += os.read(main, 4096)
                    if answers and said.endswith(b"[y/N]: "):
                        os.write(main, f"{answers.pop(0)}\n".encode())
            code = process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            os.close(main)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        assert not answers, f"{step.place}: {step.command} did not ask\n{said.decode()}"
        return said.decode(), code

    def _start(self, step: Step) -> tuple[subprocess.Popen[bytes], Path]:
        self.outputs += 1
        output = self.folder.parent / f"output{self.outputs}"
        with output.open("wb") as file:
            return self._popen(step, stdin=subprocess.DEVNULL, stdout=file.fileno()), output

    def _popen(self, step: Step, *, stdin: int, stdout: int) -> subprocess.Popen[bytes]:
        variables, (program, *arguments) = taken_apart(self._here(step.command))
        return subprocess.Popen(
            [*self.programs[program], *arguments],
            cwd=self.folder,
            env={**self.environ, **variables},
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

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


def check_events(url: str) -> None:
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
