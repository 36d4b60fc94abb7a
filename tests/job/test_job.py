"""The base class: names, inheritance, hooks."""

from types import new_class
from typing import Any

import pytest

from backfill import BatchInfo, Delete, Job, Options, Param, RunInfo, Sql, Table, Update
from backfill.errors import DeclarationError, UsageError
from backfill.job import declaration_of
from backfill.job.anatomy import is_abstract, snake_case


@pytest.mark.parametrize(
    ("class_name", "name"),
    [
        ("FillDeparture", "fill_departure"),
        ("HTTPFix", "http_fix"),
        ("Fix2Users", "fix2_users"),
        ("LowerEMail", "lower_e_mail"),
        ("already_snake", "already_snake"),
    ],
)
def test_the_name_is_the_class_name_in_snake_case(class_name: str, name: str) -> None:
    assert snake_case(class_name) == name


def test_a_class_without_source_target_and_transform_is_a_base() -> None:
    class Gentle(Job):
        options = Options(rate="10/s")
        since = Param(int, default=3)

    class LowerEmail(Gentle):
        source = Table("users")
        transform = Sql(a="%(since)s")
        target = Update()

    assert is_abstract(Gentle)
    declaration = declaration_of(LowerEmail)
    assert declaration.options == Options(rate="10/s")
    assert list(declaration.params) == ["since"]
    with pytest.raises(DeclarationError, match="Gentle: a base for other jobs"):
        declaration_of(Gentle)


def test_a_base_may_declare_some_parts_when_it_says_so() -> None:
    class UsersJob(Job, abstract=True):
        source = Table("users")

    class LowerEmail(UsersJob):
        transform = Sql(a="lower(b)")
        target = Update()

    assert is_abstract(UsersJob)
    assert declaration_of(LowerEmail).source == Table("users")


def test_a_name_is_not_inherited() -> None:
    class First(Job):
        name = "the_first"
        source = Table("users")
        target = Delete()

    class Second(First):
        source = Table("guests")

    assert (First.name, Second.name) == ("the_first", "second")
    assert declaration_of(Second).source == Table("guests")


def test_a_parameter_of_a_base_is_not_replaced_by_a_value() -> None:
    class Base(Job):
        since = Param(int)

    with pytest.raises(DeclarationError, match="Wrong: since is a parameter of a base class"):
        new_class("Wrong", (Base,), exec_body=lambda body: body.update(since=3))


def test_the_hooks_of_the_base_do_nothing() -> None:
    class LowerEmail(Job):
        source = Table("users")
        target = Delete()

    run = RunInfo(id="lower_email-1", job="lower_email", database="default", params={})
    batch: Any = BatchInfo
    connection: Any = object()
    job = LowerEmail()
    job.setup(connection)
    job.before_run(run)
    job.after_batch(batch)
    job.after_run(run)
    job.teardown()
    assert vars(job) == {}


def test_a_job_made_by_hand_works_for_no_run() -> None:
    class LowerEmail(Job):
        source = Table("users")
        target = Delete()

    with pytest.raises(UsageError, match=r"LowerEmail: self\.run"):
        _ = LowerEmail().run
