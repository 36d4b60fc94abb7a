"""Declarations: what decides the meaning of a run, and the values that a run is given."""

import json
from collections.abc import Mapping
from decimal import Decimal
from types import new_class
from typing import Any

import pytest

from backfill import Delete, Insert, Job, Options, Param, Query, Row, RunInfo, Sql, Table, Update
from backfill.errors import DeclarationError, UsageError
from backfill.job import bind, declaration_of


class FillDeparture(Job):
    """Give every flight its scheduled departure.

    And more, for those who read on.
    """

    version = 2
    source = Table("flights", key="id", columns=["hour"], where="year >= %(since)s", todo="x")
    target = Update("departs_at")
    options = Options(rate="20000/s")
    retry_on = (TimeoutError,)
    since = Param(int, default=2013, help="first year")
    share = Param(Decimal, help="of the rows")
    token = Param(str, secret=True, env="TOKEN")

    def transform(self, row: Row) -> Mapping[str, object] | None:
        return {"departs_at": row.hour + self.since}


ENVIRON = {"TOKEN": "hunter2"}
RUN = RunInfo(id="fill_departure-7f3k2", job="fill_departure", database="default", params={})


def test_a_declaration_says_what_the_class_says() -> None:
    declaration = declaration_of(FillDeparture)
    assert declaration.job_class is FillDeparture
    assert declaration.name == "fill_departure"
    assert declaration.version == 2
    assert declaration.source is FillDeparture.source
    assert declaration.target is FillDeparture.target
    assert declaration.options == Options(rate="20000/s")
    assert list(declaration.params) == ["since", "share", "token"]
    assert (declaration.kind, declaration.sql) == ("row", None)
    assert declaration.retry_on == (TimeoutError,)
    assert declaration.doc == "Give every flight its scheduled departure."


def test_a_declaration_is_read_once() -> None:
    assert declaration_of(FillDeparture) is declaration_of(FillDeparture)


def test_the_description_is_json_and_knows_no_value_of_a_run() -> None:
    assert json.loads(json.dumps(declaration_of(FillDeparture).describe())) == {
        "version": 2,
        "source": {
            "table": "flights",
            "key": ["id"],
            "columns": ["hour"],
            "where": "year >= %(since)s",
            "todo": "x",
        },
        "transform": {"kind": "row", "sql": None},
        "target": {"kind": "update", "columns": ["departs_at"]},
        "params": {"since": "int", "share": "Decimal", "token": "str (secret)"},
    }


def by_batch(self: Job, rows: list[Row]) -> list[None]:
    return [None for _ in rows]


def by_row(self: Job, row: Row) -> None: ...


def another_body(self: Job, row: Row) -> None:
    raise NotImplementedError


BASE: dict[str, object] = {
    "name": "job",
    "source": Table("users", key="id", columns=["a"], where="b", todo="c"),
    "target": Update("a"),
    "transform": by_row,
    "since": Param(int, default=1),
}


def fingerprint(**changed: object) -> str:
    parts = {name: part for name, part in {**BASE, **changed}.items() if part is not None}
    # a Param knows its class by one name only, so that each class has one of its own
    job_class: type[Job] = new_class("Made", (Job,), exec_body=lambda body: body.update(parts))
    return declaration_of(job_class).fingerprint()


@pytest.mark.parametrize(
    "changed",
    [
        {"version": 2},
        {"source": Table("guests", key="id", columns=["a"], where="b", todo="c")},
        {"source": Table("users", key="uid", columns=["a"], where="b", todo="c")},
        {"source": Table("users", key="id", columns=["b"], where="b", todo="c")},
        {"source": Table("users", key="id", columns=["a"], where="d", todo="c")},
        {"source": Table("users", key="id", columns=["a"], where="b")},
        {"source": Query("TABLE users", key="id", table="users", todo="c")},
        {"target": Update("b")},
        {"target": Delete()},
        {"target": Insert("x", on_conflict="skip")},
        {"transform": None, "transform_batch": by_batch},
        {"transform": Sql(a="1")},
        {"since": Param(str, default="1")},
        {"since": Param(int, secret=True, env="SINCE")},
        {"until": Param(int, default=1)},
    ],
    ids=",".join,
)
def test_the_fingerprint_differs_where_the_meaning_does(changed: dict[str, object]) -> None:
    assert fingerprint(**changed) != fingerprint()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Insert("x", on_conflict="skip"), Insert("x", on_conflict="error")),
        (Insert("x", on_conflict="skip"), Insert("y", on_conflict="skip")),
        (Insert("x", on_conflict="skip"), Insert("x", on_conflict="skip", conflict=["a"])),
        (Insert("x", on_conflict="skip"), Insert("x", on_conflict="skip", columns=["a"])),
    ],
)
def test_the_fingerprint_knows_all_of_an_insert(one: Insert, other: Insert) -> None:
    assert fingerprint(target=one) != fingerprint(target=other)


@pytest.mark.parametrize(
    "changed",
    [
        {"transform": another_body},
        {"__doc__": "Something else."},
        {"options": Options(rate="1/s")},
        {"since": Param(int, default=2, help="another")},
        {"retry_on": (OSError,)},
    ],
    ids=",".join,
)
def test_the_fingerprint_is_the_same_where_the_meaning_is(changed: dict[str, object]) -> None:
    assert fingerprint(**changed) == fingerprint()


def test_the_fingerprint_is_the_same_in_every_process() -> None:
    # a run is kept for weeks: this value changes with the format of describe(), and with nothing
    # else, and then runs in hand pause until somebody accepts the change
    assert fingerprint() == "ed2a5b5fc61d542e"


def test_a_bound_job_has_its_parameters_and_its_run() -> None:
    job = bind(FillDeparture, {"since": 2014, "share": Decimal("0.5")}, run=RUN, environ=ENVIRON)
    assert isinstance(job, FillDeparture)
    assert (job.since, job.share, job.token) == (2014, Decimal("0.5"), "hunter2")
    assert job.run is RUN


def test_a_default_is_taken_where_nothing_is_given() -> None:
    job = bind(FillDeparture, {"share": Decimal(1)}, environ=ENVIRON)
    assert job.since == 2013


def test_a_constructor_of_the_users_own_sees_the_parameters() -> None:
    class Counting(Job):
        source = Table("users")
        target = Delete()
        since = Param(int, default=1)

        def __init__(self) -> None:
            self.seen = self.since + 1

    assert bind(Counting, {"since": 4}).seen == 5


@pytest.mark.parametrize(
    ("values", "mistake", "remedy"),
    [
        ({"share": Decimal(1), "sicne": 1}, "has no parameter sicne", "Did you mean since?"),
        ({}, "the parameter share is missing", "of type Decimal and has no default: of the rows"),
        ({"share": "1"}, "the parameter share: '1' is no Decimal", "share=12.50"),
        ({"share": Decimal(1), "token": "x"}, "token is a secret", "Set TOKEN"),
    ],
)
def test_wrong_parameters_are_a_usage_error_that_says_what_is_right(
    values: dict[str, object], mistake: str, remedy: str
) -> None:
    with pytest.raises(UsageError) as refusal:
        bind(FillDeparture, values, environ=ENVIRON)
    assert mistake in refusal.value.message
    assert remedy in refusal.value.remedy


def test_parameters_typed_on_the_command_line_are_completed_and_kept() -> None:
    declaration = declaration_of(FillDeparture)
    values = declaration.complete_params(declaration.parse_params({"share": "0.25"}))
    assert values == {"since": 2013, "share": Decimal("0.25")}
    kept = json.loads(json.dumps(declaration.params_to_json(values)))
    assert kept == {"since": 2013, "share": "0.25"}
    assert declaration.params_from_json(kept) == values


def test_a_misspelt_parameter_on_the_command_line_is_told_the_right_one() -> None:
    with pytest.raises(UsageError, match="fill_departure has no parameter shar") as refusal:
        declaration_of(FillDeparture).parse_params({"shar": "1"})
    assert "Did you mean share?" in refusal.value.remedy


def test_a_secret_typed_on_the_command_line_is_refused() -> None:
    with pytest.raises(UsageError, match="token is a secret"):
        declaration_of(FillDeparture).parse_params({"token": "hunter2"})


def test_the_arguments_of_sql_are_named_as_its_placeholders() -> None:
    job = bind(FillDeparture, {"share": Decimal(1)}, environ=ENVIRON)
    assert declaration_of(FillDeparture).sql_arguments(job) == {
        "p_since": 2013,
        "p_share": Decimal(1),
        "p_token": "hunter2",
    }


def test_what_is_no_job_has_no_declaration() -> None:
    wrong: Any = FillDeparture()
    with pytest.raises(DeclarationError, match="is no job"):
        declaration_of(wrong)


def test_an_inherited_docstring_describes_another_job() -> None:
    class Second(FillDeparture):
        version = 3

    assert declaration_of(Second).doc == ""
