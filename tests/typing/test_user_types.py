"""A typed job passes mypy in its author's own strict configuration, and a wrong one does not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import backfill

RIGHT = Path(__file__).with_name("user_job.py").read_text()
REPOSITORY = Path(backfill.__file__).parents[1]

#: A wrong line for a right one, and the line's number is the place where mypy must complain.
MISTAKES = {
    "a parameter is not of that type": (
        "first_year: int = self.since",
        "first_year: str = self.since",
    ),
    "a parameter of another type": ("last_day: date = self.until", "last_day: int = self.until"),
    "a secret is text": ("self.token.strip()", "self.token.bit_length()"),
    "a default of another type": ('default=Decimal("0.5")', "default=[]"),
    "a parameter is read-only": (
        "        first_year: int = self.since",
        "        self.since = 3; first_year: int = self.since",
    ),
    "an option that does not exist": ('rate="20000/s"', 'rates="20000/s"'),
    "an option of another type": ("batch_rows=500", 'batch_rows="many"'),
    "an unknown on_conflict": ('on_conflict="skip", ', 'on_conflict="ignore", '),
    "no on_conflict": ('on_conflict="skip", ', ""),
    "an expression that is no text": ('"lower(email)"', "7"),
    "a source that is none": (
        'source = Table("users", todo="email_lower IS NULL")',
        'source = "users"',
    ),
    "a table that is a number": ("Table(Account, ", "Table(7, "),
    "a query without a key": ('key="id", table="orders"', 'table="orders"'),
    "a version that is none": ("version = 2", 'version = "2"'),
    "a hook with other types": ("run: RunInfo) -> None", "run: int) -> None"),
    "a type that no parameter has": ("until = Param(date)", "until = Param(bytes)"),
    "a name that backfill does not have": (
        "from datetime import date",
        "from datetime import date; from backfill import Jbo",
    ),
    "a run has no such field": ("self.run.database", "self.run.url"),
}


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What mypy says of each file, by the file's name; all are checked at once."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "right.py").write_text(RIGHT)
    for number, (right, wrong) in enumerate(MISTAKES.values()):
        assert RIGHT.count(right) == 1, right
        (folder / f"wrong_{number}.py").write_text(RIGHT.replace(right, wrong))
    checked = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file=",
            "--no-incremental",
            "--follow-imports=silent",
            ".",
        ],
        cwd=folder,
        # mypy does not follow an editable installation, as the development environment has it
        env={**os.environ, "MYPYPATH": str(REPOSITORY)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert checked.returncode in {0, 1}, checked.stderr
    said: dict[str, list[str]] = {}
    for line in checked.stdout.splitlines():
        file, colon, complaint = line.partition(".py:")
        if colon:
            said.setdefault(file, []).append(complaint)
    return said


def test_a_typed_job_passes_strict_checks(complaints: dict[str, list[str]]) -> None:
    assert complaints.get("right", []) == []


def test_only_the_jobs_are_complained_of(complaints: dict[str, list[str]]) -> None:
    assert not [file for file in complaints if not file.startswith("wrong_")]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_type_mistake_is_found_where_it_stands(
    complaints: dict[str, list[str]], mistake: str
) -> None:
    number = list(MISTAKES).index(mistake)
    right, _ = MISTAKES[mistake]
    line = RIGHT[: RIGHT.index(right)].count("\n") + 1
    said = complaints.get(f"wrong_{number}", [])
    assert any(complaint.startswith(f"{line}: error") for complaint in said), said
