"""`backfill.settings_notify`: the channels by which people are told of runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backfill.errors import ProjectError
from backfill.settings import load
from backfill.settings_notify import Channel, Kind
from tests.settings.conftest import Project, refused

URL = "https://hooks.example/services/T0/B0/s3cret"


def test_without_a_word_nobody_is_told(project: Project) -> None:
    assert load(project(""), {}).channels == {}
    assert load(None, {}).channels == {}


def test_a_webhook_is_told_of_everything_unless_it_says_of_what(project: Project) -> None:
    folder = project(
        '[notify.ops]\nwebhook_url_env = "SLACK_WEBHOOK"\n'
        '[notify.pager]\nwebhook_url_env = "PAGER"\non = ["failed", "paused by an error"]\n'
    )
    ops, pager = load(folder, {"SLACK_WEBHOOK": URL}).channels.values()
    assert (ops.name, ops.on, ops.command) == ("ops", tuple(Kind), ())
    assert ops.webhook is not None
    assert ops.webhook.http() == URL
    assert pager.on == (Kind.ERROR, Kind.FAILED)
    assert pager.webhook is not None
    with pytest.raises(ProjectError, match=r"PAGER is not set \(named in .*notify.pager"):
        pager.webhook.http()  # only who sends needs it


def test_a_command_keeps_its_arguments_apart(project: Project) -> None:
    folder = project('[notify.pager]\ncommand = ["tell", "a b", "", "$HOME;"]\n')
    assert load(folder, {}).channels == {
        "pager": Channel(name="pager", command=("tell", "a b", "", "$HOME;"))
    }


def test_no_repr_holds_the_url(project: Project) -> None:
    settings = load(project('[notify.ops]\nwebhook_url_env = "HOOK"\n'), {"HOOK": URL})
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize(
    ("toml", "place", "rest"),
    [
        ("notify = 1", ": notify takes a table", "is a number"),
        ('[notify]\nops = "x"', ": [notify] ops takes a table", "[notify.ops]"),
        ("[notify.ops]", ": [notify] ops says nothing", "webhook_url_env names the variable"),
        (
            '[notify.ops]\nwebhook_url_env = "A"\ncommand = ["x"]',
            ": [notify] ops has both",
            "one of the two",
        ),
        ('[notify."a b"]\ncommand = ["x"]', ": [notify] a b is no name", "letters"),
        ('[notify.ops]\ncomand = ["x"]', ": [notify.ops] comand is no", 'did you mean "command"?'),
        (f'[notify.ops]\nwebhook_url = "{URL}"', ": [notify.ops] webhook_url would", "_url_env is"),
        (f'[notify.ops]\nwebhook_url_env = "{URL}"', "would put a secret", "webhook_url_env is"),
        ('[notify.ops]\nwebhook_url_env = "A B"', "webhook_url_env takes the name", ""),
        ('[notify.ops]\ncommand = "mail ops"', "command takes a program", "is a string"),
        ("[notify.ops]\ncommand = []", "command takes a program", "is a list"),
        ('[notify.ops]\ncommand = [" ", "x"]', "command takes a program", ""),
        ('[notify.ops]\ncommand = ["x", 1]', "command takes a program", ""),
        (f'[notify.ops]\ncommand = ["curl", "{URL}"]', "may be a secret", "from the environment"),
        (
            '[notify.ops]\ncommand = ["x"]\non = ["suceeded"]',
            ": [notify.ops] on",
            'did you mean "succeeded"?',
        ),
        ('[notify.ops]\ncommand = ["x"]\non = []', "on takes at least one of these", "is a list"),
        ('[notify.ops]\ncommand = ["x"]\non = "failed"', "on takes a list", "is a string"),
    ],
)
def test_a_mistake_is_one_error_that_names_its_place(
    project: Project, toml: str, place: str, rest: str
) -> None:
    error = refused(project(toml))
    assert place in error.message
    assert rest in str(error)
    assert "s3cret" not in str(error)


def test_a_word_that_means_nothing_shows_those_that_do(project: Project, tmp_path: Path) -> None:
    error = refused(project('[notify.ops]\ncommand = ["x"]\non = ["xyzzy"]'))
    assert "xyzzy" not in str(error)  # somebody may have put a secret there
    assert all(json.dumps(kind) in error.remedy for kind in Kind)
