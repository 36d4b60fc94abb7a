"""Fixtures of the engine's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engine.factory import Worksite
from tests.engine.planning import Planner


@pytest.fixture
def site(db_url: str) -> Iterator[Worksite]:
    """A database of the test's own, with the ledger."""
    worksite = Worksite(db_url)
    yield worksite
    worksite.close()


@pytest.fixture
def plan(site: Worksite) -> Planner:
    site.numbers(10)
    return Planner(site)
