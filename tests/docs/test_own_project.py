"""A user's project with the package from its wheel, and nothing of the checkout around it.

The environment has what the wheel asks for and nothing else, from this one's packages: what is used
and not asked for is missing, as it would be for a user.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from importlib.metadata import Distribution, distribution
from pathlib import Path

import psycopg
import pytest
from packaging.requirements import Requirement

from tests.docs.pages import ROOT, blocks
from tests.docs.reader import Reader
from tests.docs.test_stories import play
from tests.services import PostgresServer

PAGE = ROOT / "docs" / "how-to" / "own-project.md"
BUILD, INSTALL = (block.text.splitlines() for block in blocks(PAGE, "sh"))


def checked(command: Sequence[str | Path], *, folder: Path) -> str:
    """What it prints; it must end with 0."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_"))}
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as the page says from a copy of the checkout, without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "checkout"
    for name in ("backfill", "jobs", "tests", "benchmarks", "docs"):
        shutil.copytree(
            ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "images")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    (command,) = BUILD
    *words, checkout = shlex.split(command)
    assert checkout == "/path/to/this/checkout"
    checked(
        [sys.executable, "-m", *words, "--no-build-isolation", "--no-index", copy], folder=folder
    )
    (built,) = (folder / "dist").iterdir()
    return built


def files_of_the_package() -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / "backfill").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.slow
def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = [name for name in archive.namelist() if name not in names]
    assert names == files_of_the_package()
    assert {
        "backfill/py.typed",
        "backfill/pg/schema/001_ledger.sql",
        "backfill/flower/static/backfills.js",
        "backfill/flower/templates/backfills.html",
        "backfill/cli/templates/job.py.txt",
    } <= names
    assert {name.split("/")[0] for name in metadata} == {"backfill-0.1.0.dist-info"}
    assert "backfill-0.1.0.dist-info/licenses/LICENSE" in metadata


def asked_for(requirements: Sequence[str], extra: str = "") -> dict[str, Distribution]:
    """The distributions that these requirements bring with them, by name."""
    found: dict[str, Distribution] = {}
    waiting = [(text, extra) for text in requirements]
    seen = set()
    while waiting:
        text, extra = waiting.pop()
        if (text, extra) in seen:
            continue
        seen.add((text, extra))
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        one = distribution(requirement.name)
        found[requirement.name] = one
        for further in {"", *requirement.extras}:
            waiting += [(needed, further) for needed in one.requires or []]
    return found


def environment(folder: Path, wheel: Path) -> Path:
    """A virtual environment as the page makes it; the packages are links to those of this one."""
    make, _, install = INSTALL
    assert (make, install) == ("python3 -m venv .venv", f"pip install dist/{wheel.name}")
    checked([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], folder=folder)
    programs = folder / ".venv" / "bin"
    checked(
        [
            *(sys.executable, "-m", "pip", "--python", programs / "python", "install"),
            *("--no-deps", "--no-index", "--quiet", wheel),
        ],
        folder=folder,
    )
    packages = Path(
        checked(
            [programs / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            folder=folder,
        ).strip()
    )
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read("backfill-0.1.0.dist-info/METADATA").decode()
    needed = [
        line.partition(": ")[2]
        for line in metadata.splitlines()
        if line.startswith("Requires-Dist: ")
    ]
    for one in asked_for(needed).values():
        for top in {file.parts[0] for file in one.files or []} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(str(one.locate_file(top))).resolve())
    return programs


@pytest.mark.slow
def test_a_project_of_ones_own_works_with_the_wheel_alone(
    reader: Reader, wheel: Path, postgres_server: PostgresServer, redis_url: str, tmp_path: Path
) -> None:
    programs = environment(tmp_path, wheel)
    told = checked(
        [
            programs / "python",
            "-c",
            (
                "import importlib.util as u, backfill, sys; print(backfill.__file__, *sys.path);"
                " print([n for n in ('jobs', 'tests', 'benchmarks', 'django') if u.find_spec(n)])"
            ),
        ],
        folder=reader.folder,
    )
    places, others = told.splitlines()
    assert str(ROOT) not in places
    assert others == "[]"
    reader.programs = {"backfill": [str(programs / "backfill")]}
    with postgres_server.database() as name:
        reader.url = postgres_server.url(name)
        reader.stands_for = {
            "postgresql://me@db.example.org:5432/shop": reader.url,
            "redis://redis.example.org:6379/0": redis_url,
        }
        reader.names = {name: "shop"}
        play(reader, PAGE)
        with psycopg.connect(reader.url) as conn:
            done = conn.execute(
                "SELECT count(*) FROM users WHERE email_lower = lower(email)"
            ).fetchone()
        assert done == (1000,)
        reader.leave()
