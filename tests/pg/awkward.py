"""Texts that are awkward to quote."""

from __future__ import annotations

from hypothesis import strategies as st

WORD = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=4)
AWKWARD = WORD | st.sampled_from(["", "NULL", "null", "{}", '"', "\\", ",", " ", "a b", "%s", "ß"])
