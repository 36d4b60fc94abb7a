"""How many examples the property tests try: few at hand, many at night.

`HYPOTHESIS_PROFILE=nightly pytest` tries twenty times as many, and the tests marked with `nightly`.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# Examples that talk to a server take as long as the machine lets them: no deadline.
settings.register_profile("quick", deadline=None, print_blob=True, max_examples=50)
settings.register_profile("nightly", deadline=None, print_blob=True, max_examples=1_000)

PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "quick")
#: A test that takes minutes.
nightly = pytest.mark.skipif(
    PROFILE != "nightly", reason="takes minutes: HYPOTHESIS_PROFILE=nightly"
)


def load_profile() -> None:
    """Choose what `HYPOTHESIS_PROFILE` names; `quick` when it names none."""
    settings.load_profile(PROFILE)


def share_of_examples(percent: int) -> settings:
    """Settings for a property whose examples are dear: this share of what others have."""
    return settings(max_examples=max(1, settings().max_examples * percent // 100))
