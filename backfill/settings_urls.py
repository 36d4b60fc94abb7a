"""Settings that name the environment variables of URLs: no URL is ever in a file of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from backfill.settings_file import VARIABLE_FORM, SettingsTable
from backfill.url import UrlVariable

VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def url_variables(
    table: SettingsTable, key: str, environment: Mapping[str, str]
) -> tuple[UrlVariable, ...]:
    """The variables that a setting names, each once; empty where it is not there.

    Raises:
        ProjectError: it names something else, or one twice.
    """
    names = table.texts(key, VARIABLE, 'names of environment variables, such as ["REPLICA_URL"]')
    if len(set(names)) < len(names):
        raise table.wrong(key, "each variable once")
    return tuple(_variable(name, table.place(key), environment) for name in names)


def url_variable(
    table: SettingsTable, key: str, environment: Mapping[str, str]
) -> UrlVariable | None:
    """The variable that a setting names; None where it is not there.

    Raises:
        ProjectError: it names something else.
    """
    name = table.text(key, VARIABLE, VARIABLE_FORM)
    return None if name is None else _variable(name, table.place(key), environment)


def _variable(name: str, named_in: str, environment: Mapping[str, str]) -> UrlVariable:
    raw = environment.get(name, "").strip() or None
    return UrlVariable(name=name, named_in=named_in, raw=raw)
