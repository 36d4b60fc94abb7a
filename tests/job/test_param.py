"""Parameters: typed, checked when declared and when given, kept without loss."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import IntEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill import Delete, Job, Param, Table
from backfill.errors import DeclarationError, ProjectError, UsageError
from backfill.job import bind

BIGINT = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))

VALUES: dict[type, st.SearchStrategy[Any]] = {
    int: BIGINT,
    float: st.floats(allow_nan=False),
    str: TEXT,
    bool: st.booleans(),
    date: st.dates(),
    datetime: st.datetimes() | st.datetimes(timezones=st.timezones()),
    Decimal: st.decimals(allow_nan=False),
    UUID: st.uuids(),
}

WRONG_VALUES: dict[type, list[object]] = {
    int: [True, 1.0, "1", None, 2**63, -(2**63) - 1],
    float: [True, "1.0", None, Decimal(1), 10**400],
    str: [1, None, b"a", "a\0b", "\ud800"],
    bool: [1, 0, "true", None],
    date: ["2013-01-01", datetime(2013, 1, 1, tzinfo=UTC), None],
    datetime: ["2013-01-01", date(2013, 1, 1), None],
    Decimal: [1, 1.0, "1", None, Decimal("sNaN")],
    UUID: ["6f2c1d1e-8a44-4c3b-9d2e-0b1f5a7c9e10", 1, None],
}

WRONG_TEXTS: dict[type, list[str]] = {
    int: ["", "1.5", "one", "9" * 30, "9" * 5000],
    float: ["", "one", "1,5"],
    str: ["\0"],
    bool: ["", "maybe", "2"],
    date: ["", "2013", "31.01.2013", "2013-02-30"],
    datetime: ["", "now", "2013-01-01T25:00"],
    Decimal: ["", "one", "sNaN"],
    UUID: ["", "6f2c"],
}


def named(value_type: type, **declared: Any) -> Param[Any]:
    param: Param[Any] = Param(value_type, **declared)
    param.__set_name__(Job, "since")
    return param


@pytest.mark.parametrize("value_type", VALUES)
@given(data=st.data())
def test_a_value_comes_back_from_the_ledger_as_it_was(
    value_type: type, data: st.DataObject
) -> None:
    value = data.draw(VALUES[value_type])
    param = named(value_type)
    kept = json.loads(json.dumps(param.to_json(value), allow_nan=False))
    back = param.from_json(kept)
    assert type(back) is type(value)
    # by text: an instant in a repeated hour is equal to none of another zone
    assert str(back) == str(value)


@pytest.mark.parametrize("value_type", VALUES)
@given(data=st.data())
def test_what_python_prints_can_be_typed_on_the_command_line(
    value_type: type, data: st.DataObject
) -> None:
    value = data.draw(VALUES[value_type])
    assert str(named(value_type).parse(str(value))) == str(value)


@pytest.mark.parametrize("value_type", VALUES)
@given(text=st.text())
def test_any_text_is_a_value_or_a_usage_error(value_type: type, text: str) -> None:
    param = named(value_type)
    try:
        value = param.parse(text)
    except UsageError:
        return
    assert isinstance(value, value_type)
    json.dumps(param.to_json(value), allow_nan=False)


@pytest.mark.parametrize("value_type", VALUES)
@given(
    kept=st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.lists(st.integers(), max_size=1)
)
def test_any_json_is_a_value_or_a_usage_error(value_type: type, kept: object) -> None:
    param = named(value_type)
    try:
        value = param.from_json(kept)
    except UsageError:
        return
    assert isinstance(value, value_type)


@pytest.mark.parametrize("value_type", VALUES)
def test_the_example_in_messages_is_right(value_type: type) -> None:
    param = named(value_type)
    assert isinstance(param.parse(param._kind.example), value_type)


@pytest.mark.parametrize(
    ("value_type", "text"), [(t, text) for t, texts in WRONG_TEXTS.items() for text in texts]
)
def test_a_wrong_text_is_refused_naming_parameter_value_and_right_form(
    value_type: type, text: str
) -> None:
    param = named(value_type)
    with pytest.raises(UsageError) as refusal:
        param.parse(text)
    assert refusal.value.message.startswith(f"the parameter since: {text!r}"[:60])
    assert f"such as since={param._kind.example}" in refusal.value.remedy
    assert len(refusal.value.message) < 200


@pytest.mark.parametrize(
    ("value_type", "value"), [(t, value) for t, values in WRONG_VALUES.items() for value in values]
)
def test_a_value_of_another_type_is_refused_when_given_and_as_a_default(
    value_type: type, value: Any
) -> None:
    with pytest.raises(UsageError, match="the parameter since"):
        named(value_type).convert(value)
    with pytest.raises(DeclarationError, match=rf"Param\({value_type.__name__}\): the default"):
        Param(value_type, default=value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("Yes", True), ("on", True), ("1", True), ("FALSE", False), ("no", False),
     ("off", False), ("0", False)],
)  # fmt: skip
def test_a_bool_is_typed_in_the_usual_words(text: str, value: bool) -> None:
    assert named(bool).parse(text) is value


def test_an_int_serves_as_a_float() -> None:
    param = Param(float, default=1)
    assert type(param.default) is float


def test_jsonb_may_give_a_whole_float_back_as_an_int() -> None:
    value = named(float).from_json(10**22)
    assert (type(value), value) == (float, 1e22)


def test_a_subclass_of_a_plain_type_becomes_the_plain_type() -> None:
    class Level(IntEnum):
        HIGH = 3

    assert type(named(int).convert(Level.HIGH)) is int


def test_not_a_number_survives_the_ledger() -> None:
    assert named(float).to_json(float("nan")) == "nan"
    assert str(named(float).from_json("nan")) == "nan"
    assert str(named(Decimal).from_json("NaN")) == "NaN"


@pytest.mark.parametrize("value_type", [list, dict, object, bytes, "int", None, list[int]])
def test_an_unsupported_type_is_refused_naming_those_that_are(value_type: Any) -> None:
    with pytest.raises(DeclarationError, match="is not supported") as refusal:
        Param(value_type)
    assert "int, float, str, bool, date, datetime, Decimal, UUID" in refusal.value.remedy


def test_a_parameter_has_one_value_that_cannot_be_set() -> None:
    class Old(Job):
        source = Table("users", where="year < %(since)s")
        target = Delete()
        since = Param(int, default=2013)

    job: Any = bind(Old, {"since": 2014})
    assert job.since == 2014
    with pytest.raises(AttributeError, match="since is read-only"):
        job.since = 2015


def test_a_job_made_by_hand_has_its_defaults() -> None:
    class Old(Job):
        since = Param(int, default=2013)
        until = Param(int)

    assert Old().since == 2013
    with pytest.raises(UsageError, match="until has no value outside a run"):
        _ = Old().until
    assert isinstance(Old.since, Param)


class Geocode(Job):
    source = Table("users")
    target = Delete()
    token = Param(str, secret=True, env="GEOCODER_TOKEN")
    level = Param(int, secret=True, env="GEOCODER_LEVEL")


SECRETS = {"GEOCODER_TOKEN": "hunter2", "GEOCODER_LEVEL": "3"}


def test_a_secret_is_read_from_the_environment_when_a_job_is_bound() -> None:
    job = bind(Geocode, {}, environ=SECRETS)
    assert (job.token, job.level) == ("hunter2", 3)


@pytest.mark.parametrize("method", ["parse", "convert", "to_json", "from_json"])
def test_a_secret_is_neither_given_nor_kept(method: str) -> None:
    with pytest.raises(UsageError, match="token is a secret") as refusal:
        getattr(Geocode.token, method)("hunter2")
    assert "GEOCODER_TOKEN" in refusal.value.remedy
    assert "hunter2" not in str(refusal.value)


def test_a_secret_that_is_not_set_names_the_variable() -> None:
    with pytest.raises(ProjectError, match="GEOCODER_TOKEN is not set"):
        bind(Geocode, {}, environ={**SECRETS, "GEOCODER_TOKEN": ""})


def test_a_secret_of_a_wrong_form_is_not_quoted() -> None:
    with pytest.raises(ProjectError, match="GEOCODER_LEVEL is no int") as refusal:
        bind(Geocode, {}, environ={**SECRETS, "GEOCODER_LEVEL": "hunter2"})
    assert "hunter2" not in str(refusal.value)
    assert refusal.value.__cause__ is None


@pytest.mark.parametrize(
    ("declared", "mistake"),
    [
        ({"secret": True}, "env is missing"),
        ({"secret": True, "env": ""}, "env is missing"),
        ({"secret": True, "env": "KEY", "default": "x"}, "a secret in a file"),
        ({"env": "KEY"}, "only a secret"),
    ],
)
def test_a_wrong_declaration_of_a_secret_is_refused(declared: dict[str, Any], mistake: str) -> None:
    with pytest.raises(DeclarationError, match=mistake) as refusal:
        Param(str, **declared)
    assert 'Param(str, secret=True, env="GEOCODER_KEY")' in refusal.value.remedy
