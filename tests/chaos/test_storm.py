"""I1, I2, I4, I7 in a storm: nothing lost, nothing done twice, wherever processes die.

The long one is `make chaos`. This one prints its seed, and rages anew with it where CHAOS_SEED=… is
set.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest

from tests.acceptance.conftest import MakeCrew
from tests.acceptance.crew import POINTS
from tests.chaos.field import Field
from tests.chaos.storm import Storm

KILLS = 20


@pytest.mark.slow
def test_every_row_is_done_once_in_a_storm(
    make_crew: MakeCrew, record_property: Callable[[str, object], None]
) -> None:
    seed = int(os.environ.get("CHAOS_SEED", random.randrange(2**32)))
    print(f"CHAOS_SEED={seed}")
    record_property("seed", seed)
    crew = make_crew()
    field = Field(crew, rows=12_000)
    storm = Storm(field, seed=seed, workers=2, children=2, pause_seconds=0.1, rows_between=300)
    crew.keep_alive(storm.workers, children=storm.children)
    field.make("composite", rate=1_500)
    storm.outlive()
    for point in POINTS:  # at least once at each, whatever the seed says
        storm.order("kill child", point)
    storm.rage(KILLS)
    storm.calm()
    record_property("dealt", dict(storm.dealt))
    assert storm.kills >= KILLS / 2, f"the runs ended too early: {storm.dealt}"
    assert storm.paused["quarantine"] >= 2, "the odd rows were not seen"
