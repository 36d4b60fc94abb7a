"""SQL fragments: parameters bind, every other percent sign is plain, shapes are checked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.job import sql_fragment
from backfill.job.fragment import (
    first_word,
    mistake_in,
    placeholders,
    quoted_placeholders,
)

PIECES = st.sampled_from(
    ["%", "%%", "%(since)s", "%(until)s", "%(other)s", "%s", "%(since)", "(since)s", "%b", "'", " "]
)
FRAGMENTS = st.lists(PIECES | st.text(max_size=4)).map("".join)
VALUES = {"p_since": "<1>", "p_until": "<2>"}


@given(FRAGMENTS)
def test_parameters_bind_and_every_other_percent_sign_is_plain(text: str) -> None:
    # Python's formatting reads named placeholders and doubled signs as psycopg does
    rendered = sql_fragment(text, {"since", "until"}) % VALUES
    assert rendered == text.replace("%(since)s", "<1>").replace("%(until)s", "<2>")


@given(FRAGMENTS)
def test_without_parameters_a_fragment_says_what_was_written(text: str) -> None:
    assert sql_fragment(text, ()) % VALUES == text


@pytest.mark.parametrize(
    ("fragment", "mistake"),
    [
        ("", "is empty"),
        (" \n", "is empty"),
        (3, "is of type int, not text"),
        ("a\0b", "NUL"),
        ("a > 1;", "semicolon"),
        ("a > 1; DROP TABLE users", "semicolon"),
        ("(a > 1", "opens a parenthesis"),
        ("a > 1) OR (b", "closes a parenthesis"),
        ("a[1)", "closes a parenthesis"),
        ("a = 'x", "opens ' and does not close it"),
        ("a = 'it''s", "opens ' and does not close it"),
        (r"a = E'x\'", "opens E' and does not close it"),
        ('"a', 'opens " and does not close it'),
        ("a = $$x", "opens $$ and does not close it"),
        ("a = $q$x$r$", "opens $q$ and does not close it"),
        ("a /* x", "opens /* and does not close it"),
        ("a > 1 -- recent", "ends in a comment"),
    ],
)
def test_a_fragment_that_would_change_the_statement_around_it_is_refused(
    fragment: object, mistake: str
) -> None:
    assert mistake in str(mistake_in(fragment))


@pytest.mark.parametrize(
    "fragment",
    [
        "a > 1",
        "a = ';' AND b = '(' AND c = '--'",
        "a = 'it''s (' OR b IS NULL",
        r"a = E'it\'s ('",
        '"odd ) name;" = 1',
        "a = $$ ; ( $$ AND b = $q$ $$ ) $q$",
        "a$1 > 0 AND b$c$ > 0",
        "a > 1 -- recent\n AND b > 2",
        "a /* ; ( */ > 1",
        "tags[1] = (SELECT max(x) FROM t WHERE (t.y = 1))",
        "doc ->> 'a' = '{}' AND doc @> '{\"a\": 1}'::jsonb",
        "a %(b) > 1",
        "a % 4 = 0 AND b LIKE 'x%'",
        "year >= %(since)s",
        "größe > 1",
    ],
)
def test_what_postgresql_would_take_is_taken(fragment: str) -> None:
    assert mistake_in(fragment) is None


@given(st.text(st.sampled_from("a'\"$()[];-/*eE\\\n% "), max_size=30))
def test_a_fragment_that_is_taken_stays_within_its_parentheses(text: str) -> None:
    """What follows a fragment reads the same whatever the fragment is."""
    if mistake_in(text) is None:
        assert mistake_in(f"({text}) AND (a)") is None
        assert "semicolon" in str(mistake_in(f"({text}) ;"))


def test_placeholders_are_told_from_those_in_quotes() -> None:
    text = "a = %(x)s AND b = '%(y)s' /* %(z)s */ AND \"%(w)s\" = 1"
    assert placeholders(text) == {"x"}
    assert quoted_placeholders(text) == {"y", "z", "w"}


@pytest.mark.parametrize(
    ("fragment", "starts"),
    [("WHERE a", True), (" where a", True), ("whereabouts = 1", False), ("'where'", False)],
)
def test_the_word_where_is_noticed(fragment: str, starts: object) -> None:
    assert (first_word(fragment) == "WHERE") is starts
