"""`backfill.signals`: what a spec may say."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.signals import BUILTIN, DEFAULTS, REPLICA_LAG, SignalSpec, Worse


def spec(stop: float, resume: float, worse: Worse = "above") -> SignalSpec:
    return SignalSpec(name="mine", unit="s", stop=stop, resume=resume, worse=worse)


@given(st.floats(), st.floats(), st.sampled_from(["above", "below"]))
def test_thresholds_are_finite_and_resume_is_on_the_good_side(
    stop: float, resume: float, worse: Worse
) -> None:
    good = resume <= stop if worse == "above" else resume >= stop
    if good and math.isfinite(stop) and math.isfinite(resume):
        assert spec(stop, resume, worse).stop == stop
    else:
        with pytest.raises(ValueError, match="mine: "):
            spec(stop, resume, worse)


def test_the_defaults_are_some_of_ours_and_nobody_asked_for_them() -> None:
    assert DEFAULTS.items() <= BUILTIN.items()
    assert REPLICA_LAG in BUILTIN
    assert REPLICA_LAG not in DEFAULTS
    assert not any(spec.required or spec.query for spec in BUILTIN.values())


def test_what_a_run_makes_worse_by_its_own_work_is_off_until_somebody_asks() -> None:
    own_doing = {"dead_rows_percent", "vacuums_on_target", "batch_slowdown", "wal_bytes_per_second"}
    assert not own_doing & DEFAULTS.keys()
