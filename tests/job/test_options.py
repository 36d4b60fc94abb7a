"""Options: every value in its bounds, overridden as text, kept with the run."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill import Options
from backfill.errors import DeclarationError, ProjectError, UsageError
from backfill.job.options import GENTLE

WRONG: list[tuple[str, Any, str]] = [
    ("database", "", "a name"),
    ("database", None, "a name"),
    ("batch_rows", "many", '"auto" or a whole number from 1 to 100,000'),
    ("batch_rows", 0, "from 1 to 100,000"),
    ("batch_rows", 100_001, "from 1 to 100,000"),
    ("batch_rows", 1.5, "a whole number"),
    ("batch_rows", True, "a whole number"),
    ("slice_rows", 0, "from 1 to 10,000,000"),
    ("slice_rows", 10_000_001, "from 1 to 10,000,000"),
    ("concurrency", 0, "from 1 to 64"),
    ("concurrency", 65, "from 1 to 64"),
    ("lock", "none", '"skip", "optimistic" or None'),
    ("lock", "pessimistic", '"skip", "optimistic" or None'),
    ("lock", ["skip"], '"skip", "optimistic" or None'),
    ("rate", "fast", "/s"),
    ("rate", 100, '"5000/s"'),
    ("window", "at night", ""),
    ("window", 22, "Europe/Berlin"),
    ("lock_timeout_seconds", 0, "from 0.001 to 0.9"),
    ("lock_timeout_seconds", 0.0004, "from 0.001 to 0.9"),
    ("lock_timeout_seconds", 0.91, "deadlock"),
    ("lock_timeout_seconds", float("nan"), "a number"),
    ("lock_timeout_seconds", "1s", "a number"),
    ("statement_timeout_seconds", 0.2, "lock_timeout_seconds"),
    ("statement_timeout_seconds", float("inf"), "a number"),
    ("quarantine_rows", -1, "from 0"),
    ("quarantine_share", -0.1, "from 0.0 to 1.0"),
    ("quarantine_share", 1.1, "from 0.0 to 1.0"),
    ("quarantine_share", True, "a number"),
]

BOUNDS: list[tuple[str, Any]] = [
    ("batch_rows", "auto"),
    ("batch_rows", 1),
    ("batch_rows", 100_000),
    ("slice_rows", 1),
    ("slice_rows", 10_000_000),
    ("concurrency", 1),
    ("concurrency", 64),
    ("lock", "skip"),
    ("lock", "optimistic"),
    ("rate", "5000/s"),
    ("window", "Mon-Fri 01:00-05:00 UTC; Sat-Sun"),
    ("lock_timeout_seconds", 0.001),
    ("lock_timeout_seconds", 0.9),
    ("statement_timeout_seconds", 0.3),
    ("quarantine_rows", 0),
    ("quarantine_share", 0),
    ("quarantine_share", 1),
]


@pytest.mark.parametrize(("field", "value", "right"), WRONG)
def test_a_value_out_of_its_bounds_is_refused_naming_field_value_and_right_form(
    field: str, value: Any, right: str
) -> None:
    with pytest.raises(DeclarationError) as refusal:
        Options(**{field: value})
    assert f"{field}={value!r}" in refusal.value.message
    assert right in refusal.value.remedy
    assert refusal.value.remedy


@pytest.mark.parametrize(("field", "value"), BOUNDS)
def test_a_value_in_its_bounds_is_taken(field: str, value: Any) -> None:
    assert getattr(Options(**{field: value}), field) == value


def test_a_misspelt_option_is_a_type_error() -> None:
    wrong: Any = {"rates": "5000/s"}
    with pytest.raises(TypeError, match=r"there is no argument rates\nDid you mean rate\?"):
        Options(**wrong)


OPTIONS = st.builds(
    Options,
    database=st.sampled_from(["default", "main"]),
    batch_rows=st.just("auto") | st.integers(1, 100_000),
    slice_rows=st.integers(1, 10_000_000),
    concurrency=st.integers(1, 64),
    lock=st.sampled_from([None, "skip", "optimistic"]),
    rate=st.sampled_from([None, "5000/s", "20k/min"]),
    window=st.sampled_from([None, "22:00-06:00 Europe/Berlin"]),
    lock_timeout_seconds=st.floats(0.001, 0.9),
    statement_timeout_seconds=st.floats(0.9, 3600),
    quarantine_rows=st.integers(0, 10_000),
    quarantine_share=st.floats(0, 1),
)


@given(OPTIONS)
def test_options_come_back_from_the_ledger_as_they_were(options: Options) -> None:
    assert Options.from_json(json.loads(json.dumps(options.to_json()))) == options


@given(OPTIONS)
def test_each_option_can_be_given_as_text(options: Options) -> None:
    texts = {
        name: "none" if value is None else str(value) for name, value in options.to_json().items()
    }
    assert Options().replace_from_text(texts) == options


@given(st.sampled_from(sorted(Options().to_json())), st.text())
def test_any_text_is_an_option_or_a_usage_error(name: str, text: str) -> None:
    try:
        replaced = Options().replace_from_text({name: text})
    except UsageError as error:
        message = error.message
    else:
        message = name
        assert isinstance(replaced, Options)
    assert name in message


def test_options_that_are_not_named_stay_as_they_are() -> None:
    options = Options(rate="100/s", concurrency=4)
    assert options.replace_from_text({"rate": "none"}) == Options(concurrency=4)


@pytest.mark.parametrize("name", ["lock", "rate", "window", "start_at", "until"])
def test_an_empty_text_lifts_nothing(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} is empty") as refusal:
        Options().replace_from_text({name: " "})
    assert refusal.value.remedy == "Write none to lift it."


def test_a_misspelt_option_on_the_command_line_is_told_the_right_one() -> None:
    with pytest.raises(UsageError, match="there is no option batchrows") as refusal:
        Options().replace_from_text({"batchrows": "5"})
    assert "Did you mean batch_rows?" in refusal.value.remedy


def test_what_an_older_version_did_not_keep_has_its_default() -> None:
    assert Options.from_json({"concurrency": 3}) == Options(concurrency=3)


def test_an_option_of_a_newer_version_is_not_ignored() -> None:
    with pytest.raises(ProjectError, match="does not know: hurry"):
        Options.from_json({"hurry": True})


def test_gentle_makes_no_run_less_gentle_than_its_job() -> None:
    assert Options().gentle() == Options(**GENTLE)  # type: ignore[arg-type]  # floats only
    shy = Options(duty=0.1, target_batch_seconds=0.5, rate="5/s")
    assert shy.gentle() == Options(
        duty=0.1, target_batch_seconds=GENTLE["target_batch_seconds"], rate="5/s"
    )
