"""`make versions`: in CI a version of PostgreSQL that cannot be had is a failure, unless named."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import versions


@pytest.mark.parametrize(
    ("environ", "code"),
    [({"CI": "true"}, 1), ({"CI": "true", "VERSIONS_MAY_LACK": "16"}, 0), ({"CI": ""}, 0)],
)
def test_a_version_that_is_not_here_fails_in_ci_unless_it_is_named(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], code: int
) -> None:
    ran: list[str] = []

    def run(*_: object, env: dict[str, str], **__: object) -> SimpleNamespace:
        ran.append(env["BACKFILL_TEST_POSTGRES_BIN"])
        return SimpleNamespace(returncode=0)

    monkeypatch.delenv("VERSIONS", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(versions, "find", lambda n: None if n == 16 else Path(f"/pg/{n}"))
    monkeypatch.setattr("tests.versions.subprocess.run", run)
    assert versions.main([]) == code
    assert ran == ["/pg/15", "/pg/17", "/pg/18"]


def test_every_file_of_the_core_is_there() -> None:
    for name in versions.CORE:
        assert (versions.ROOT / name).exists(), name
