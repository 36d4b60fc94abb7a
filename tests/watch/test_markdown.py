"""`backfill.watch.markdown`: no text breaks the page that it is put into."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backfill.watch import markdown
from backfill.watch.markdown import bars, code, table


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a plain text, with 5 % (and more).", "a plain text, with 5 % (and more)."),
        ("a|b", r"a\|b"),
        ("`x`", r"\`x\`"),
        ("two\n\n# lines\r\n", "two # lines"),
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("&lt;", "&amp;lt;"),
        ("**bold** ~~gone~~ $x$", r"\*\*bold\*\* \~\~gone\~\~ \$x\$"),
        ("![p](http://x) [l](y)", r"\!\[p\](http://x) \[l\](y)"),
        ("fill_departs_at _is_", r"fill_departs_at \_is\_"),
        (r"a\|b", r"a\\\|b"),
        ("\x1b[31mred\u202eder\u2028x\x00", r"\[31mred der x"),
        (None, "None"),
    ],
)
def test_a_text_is_shown_as_it_is(given: object, shown: str) -> None:
    assert markdown.text(given) == shown


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("n = 1", "`n = 1`"),
        ("<b> & *", "`<b> & *`"),
        ("a || b", r"a \|\| b"),
        ("a`b", r"a\`b"),
        ("a\\", r"a\\"),
        ("  two\nlines ", "`two lines`"),
        ("", ""),
    ],
)
def test_code_is_shown_as_code_where_nothing_can_end_it(given: str, shown: str) -> None:
    assert code(given) == shown


@given(st.text())
@example("|`|\n|")
@example("\\")
def test_no_text_leaves_its_cell(hostile: str) -> None:
    for cell in (markdown.text(hostile), code(hostile)):
        lines = table(["a", "b"], [[cell, "x"]])
        assert len(lines) == 3
        assert len(lines[2].splitlines()) == 1
        bare = re.sub(r"\\.", "", lines[2])  # without what is escaped, as CommonMark reads it
        assert bare.count("|") == 3
        assert bare.count("`") in {0, 2}
        if "`" not in bare:
            assert not re.search(r"[<>*~\[\]$!]", bare)


def test_bars_show_the_greatest_highest_and_nothing_as_a_point() -> None:
    assert bars([0, 1, 4, 8]) == "·▂▅█"
    assert bars([0, 0]) == "··"
    assert bars([]) == ""
