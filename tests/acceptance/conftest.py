"""The fixture that makes a project with workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.acceptance.crew import QUICK, Crew

MakeCrew = Callable[..., Crew]


@pytest.fixture
def make_crew(tmp_path: Path, db_url: str, request: pytest.FixtureRequest) -> Iterator[MakeCrew]:
    """Makes the test's crew, on a Redis of its own or on the session's; ends it afterwards."""
    made: list[Crew] = []

    def make(*, redis_url: str | None = None, engine: Mapping[str, float] = QUICK) -> Crew:
        url = redis_url or request.getfixturevalue("redis_url")
        made.append(Crew(tmp_path, url=db_url, redis_url=url, engine=engine))
        return made[0]

    yield make
    for crew in made:
        crew.close()


@pytest.fixture
def crew(make_crew: MakeCrew) -> Crew:
    """A project with short times, on the session's Redis; it has no worker yet."""
    return make_crew()
