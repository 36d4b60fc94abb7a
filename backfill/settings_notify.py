"""The channels by which people are told of runs, as a settings file names them.

    [notify.ops]
    webhook_url_env = "SLACK_WEBHOOK"        # the variable that holds the URL: it is a secret
    [notify.pager]
    command = ["notify-oncall", "--service", "db"]   # without a shell; JSON on its standard input
    on = ["failed", "paused by an error"]    # without it: everything

A channel has exactly one of the two. Its name is kept with each message in the ledger, so a channel
that is renamed is a new one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from backfill.errors import ProjectError
from backfill.settings_file import SettingsTable, suggestion
from backfill.url import UrlVariable

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VARIABLE_FORM: Final = 'the name of an environment variable, such as "SLACK_WEBHOOK"'
_ARGUMENT = re.compile(r"[^\x00]*")
_COMMAND_FORM: Final = 'a program and its arguments, such as ["notify-oncall", "--service", "db"]'


class Kind(StrEnum):
    """What people are told of; the words that `on` takes."""

    STARTED = "started"
    SIGNAL = "paused by a signal"
    ERROR = "paused by an error"
    QUARANTINE = "paused by quarantine"
    FAILED = "failed"
    SUCCEEDED = "succeeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """Where messages go: to a webhook or to a command, never to both.

    Attributes:
        name: as in the settings.
        on: what it is told of.
        webhook: holds the URL that is posted to.
        command: a program and its arguments; empty for a webhook.
    """

    name: str
    on: tuple[Kind, ...] = tuple(Kind)
    webhook: UrlVariable | None = None
    command: tuple[str, ...] = ()


def read_channels(tables: SettingsTable, environment: Mapping[str, str]) -> Mapping[str, Channel]:
    """The channels by name, in the file's order.

    Args:
        tables: the table `notify`.

    Raises:
        ProjectError: naming the file and the key.
    """
    example = ', such as [notify.ops] with webhook_url_env = "…"'
    return {name: _channel(tables, name, example, environment) for name in tables.values}


def _channel(
    tables: SettingsTable, name: str, example: str, environment: Mapping[str, str]
) -> Channel:
    table = tables.table(name, example=example)
    table.refuse_unknown(("webhook_url_env", "command", "on"))
    if _NAME.fullmatch(name) is None:
        raise ProjectError(f"{tables.place(name)} is no name: letters, digits and . _ - serve")
    if ("webhook_url_env" in table.values) == ("command" in table.values):
        has = (
            "has both webhook_url_env and command" if "command" in table.values else "says nothing"
        )
        raise ProjectError(
            f"{tables.place(name)} {has}",
            remedy="A channel has one of the two: webhook_url_env names the variable that holds the"
            f" URL, command is {_COMMAND_FORM}.",
        )
    return Channel(
        name=name,
        on=_kinds(table),
        webhook=_webhook(table, environment),
        command=_command(table),
    )


def _webhook(table: SettingsTable, environment: Mapping[str, str]) -> UrlVariable | None:
    name = table.text("webhook_url_env", _VARIABLE, _VARIABLE_FORM)
    if name is None:
        return None
    raw = environment.get(name, "").strip() or None
    return UrlVariable(name=name, named_in=table.place("webhook_url_env"), raw=raw)


def _command(table: SettingsTable) -> tuple[str, ...]:
    if "command" not in table.values:
        return ()
    command = table.texts("command", _ARGUMENT, _COMMAND_FORM)
    if not command or not command[0].strip():
        raise table.wrong("command", _COMMAND_FORM)
    if any("://" in argument for argument in command):
        raise ProjectError(
            f"{table.place('command')} would put a URL, which may be a secret, into a file that"
            " others can read",
            remedy="Let the program read it from the environment, which it is given with the"
            " project's .env.",
        )
    return command


def _kinds(table: SettingsTable) -> tuple[Kind, ...]:
    if "on" not in table.values:
        return tuple(Kind)
    known = ", ".join(f'"{kind}"' for kind in Kind)
    named = table.texts("on", _ARGUMENT, f"a list of these: {known}")
    for word in named:
        if word not in tuple(Kind):
            raise ProjectError(
                f"{table.place('on')}: one of them is nothing that a run does"
                f"{suggestion(word, Kind)}",
                remedy=f"What a channel can be told of: {known}.",
            )
    if not named:
        raise table.wrong("on", f"at least one of these: {known}")
    return tuple(kind for kind in Kind if kind in named)
