"""One settings file: where it is found, and TOML tables whose errors say where the mistake is.

1. What is not understood is an error that names file, table and key; it is never ignored.
2. No error quotes what may be a secret: a value is shown where its key is not about one, and where
   it does not look like a URL.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from io import StringIO
from pathlib import Path
from typing import Final, TypeVar

from backfill.errors import ProjectError

SETTINGS_FILE: Final = "backfill.toml"
PYPROJECT: Final = "pyproject.toml"
VARIABLE_FORM: Final = 'the name of an environment variable, such as "DATABASE_URL"'

C = TypeVar("C", bound=str)
_SECRETS: Final = {"url", "dsn", "password", "redis_url", "database_url", "webhook_url"}
#: Of keys beside which a URL, a password or a token may have been written.
_SECRETIVE: Final = re.compile("url|env|dsn|passw|secret|token|key|command", re.IGNORECASE)
_LONGEST_SHOWN: Final = 60
_MOST_SECONDS: Final = 86_400
#: Far beyond any byte count, and kept exactly by a float's text.
_MOST_NUMBER: Final = 1e18
_KINDS: Final = {
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "a table",
}


def read_settings(folder: Path) -> SettingsTable | None:
    """The settings in this very folder; None where it has none.

    Raises:
        ProjectError: a file cannot be read, is no TOML, or settings stand in two files.
    """
    own = _parse(folder / SETTINGS_FILE)
    pyproject = _parse(folder / PYPROJECT, mentions=b"backfill")
    tool = pyproject.get("tool") if pyproject is not None else None
    if not isinstance(tool, dict) or "backfill" not in tool:
        return None if own is None else SettingsTable(str(folder / SETTINGS_FILE), "", own)
    if own is not None:
        raise ProjectError(
            f"{folder}: settings stand in both {SETTINGS_FILE} and [tool.backfill] of {PYPROJECT}",
            remedy="Keep one of them.",
        )
    return SettingsTable(str(folder / PYPROJECT), "tool", tool).table("backfill")


def suggestion(name: str, known: Iterable[str]) -> str:
    """ "; did you mean …?", or nothing where no known name is close."""
    close = get_close_matches(name, list(known), n=1)
    return f'; did you mean "{close[0]}"?' if close else ""


def _parse(path: Path, *, mentions: bytes = b"") -> Mapping[str, object] | None:
    """The file's top table; None where there is no such file, or none that mentions us."""
    try:
        content = path.read_bytes()
    except NotADirectoryError:
        return None
    except (FileNotFoundError, IsADirectoryError) as error:
        # somebody means a project there: without it, commands would go to the default database
        if path.name == SETTINGS_FILE and (path.is_symlink() or path.is_dir()):
            what = "is a folder" if path.is_dir() else "is a link to nothing"
            raise ProjectError(
                f"{path} {what}",
                remedy=f"Put the settings there, or remove it: {SETTINGS_FILE} is a file.",
            ) from error
        return None
    except OSError as error:
        raise ProjectError(
            f"{path} cannot be read: {error.strerror}",
            remedy="Let the user of this process read it (chmod, chown), or remove it.",
        ) from error
    if mentions not in content:  # a broken file of somebody else's, on the way up, is not ours
        return None
    try:
        return tomllib.loads(
            content.decode("utf-8-sig")
        )  # Windows's editors write a mark before it
    except UnicodeDecodeError as error:
        raise ProjectError(f"{path} is not UTF-8", remedy="Save it as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise ProjectError(f"{path} is no valid TOML: {error}") from error


def _shown(key: str, value: object) -> str:
    """A value as an error may show it; empty where it may be a secret, or is no single value."""
    if _SECRETIVE.search(key) or not isinstance(value, str | bool | int | float):
        return ""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    if "@" in text or "://" in text or _SECRETIVE.search(text):
        return ""
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"


@dataclass(frozen=True, slots=True)
class SettingsTable:
    """A table of a settings file that knows its place; all its methods raise ProjectError.

    Attributes:
        file: the file's path.
        name: as in the file's brackets; empty for the top of the file.
    """

    file: str
    name: str
    values: Mapping[str, object]

    def place(self, key: str) -> str:
        """Where the key stands: file, table, key."""
        return f"{self.file}: [{self.name}] {key}" if self.name else f"{self.file}: {key}"

    def wrong(
        self, key: str, takes: str, *, entry: object = None, quoted: bool = True
    ) -> ProjectError:
        """The error for a value of the wrong type or form.

        Args:
            entry: of a list, the one that is wrong.
            quoted: False where anything may have been written, such as in place of a table.
        """
        value = self.values[key]
        kind = _KINDS.get(type(value), "a date or time")
        shown = _shown(key, value if entry is None else entry) if quoted else ""
        link = ": " if entry is None else " with "
        return ProjectError(
            f"{self.place(key)} takes {takes}",
            remedy=f"What is there is {kind}{link + shown if shown else ''}.",
        )

    def secret(self, key: str) -> ProjectError:
        """The error for what may be a URL with its password."""
        right = "webhook_url_env" if key.startswith("webhook_url") else "url_env"
        return ProjectError(
            f"{self.place(key)} would put a secret into a file that others can read",
            remedy=f"Put it into the environment or .env; here {right} is {VARIABLE_FORM}.",
        )

    def refuse_unknown(self, known: Sequence[str]) -> None:
        """Raises for the first key that is none of these."""
        for key in (key for key in self.values if key not in known):
            if key.lower() in _SECRETS:
                raise self.secret(key)
            raise ProjectError(
                f"{self.place(key)} is no setting{suggestion(key, known)}",
                remedy=f"The settings here: {', '.join(known)}.",
            )

    def table(self, key: str, example: str = "") -> SettingsTable:
        """The table of that name; an empty one where it is missing."""
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, f"a table{example}", quoted=False)
        return SettingsTable(self.file, f"{self.name}.{key}" if self.name else key, value)

    def text(self, key: str, form: re.Pattern[str], takes: str) -> str | None:
        """The string of that name, which the whole of `form` matches; None where it is missing."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.wrong(key, takes)
        if "://" in value:
            raise self.secret(key)
        if not form.fullmatch(value):
            raise self.wrong(key, takes)
        return value

    def texts(self, key: str, form: re.Pattern[str], takes: str) -> tuple[str, ...]:
        """The strings of that name, each of which `form` matches; none where it is missing."""
        value = self.values.get(key, [])
        if not isinstance(value, list):
            raise self.wrong(key, takes)
        for text in value:
            if not isinstance(text, str) or not form.fullmatch(text):
                raise self.wrong(key, takes, entry=text)
        return tuple(value)

    def choice(self, key: str, allowed: tuple[C, ...], default: C) -> C:
        """The string of that name, one of those allowed."""
        value = self.values.get(key, default)
        found = next((choice for choice in allowed if choice == value), None)
        if found is None:
            raise self.wrong(key, f"one of {', '.join(allowed)}")
        return found

    def sentence(self, key: str, takes: str) -> str | None:
        """Any string of that name that is not blank; None where it is missing."""
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(key, takes)
        return value

    def number(self, key: str) -> float:
        """The finite number of that name, which must be there."""
        if key not in self.values:
            raise ProjectError(f"{self.place(key)} is missing", remedy="It is a number.")
        value = self.values[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, "a number")
        if not -_MOST_NUMBER <= value <= _MOST_NUMBER:  # false for nan, too
            raise self.wrong(key, f"a number up to {_MOST_NUMBER:g}")
        return float(value)

    def count(self, key: str, *, at_most: int) -> int | None:
        """The whole number of that name, at least 1; None where it is missing."""
        value = self.values.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= at_most:
            raise self.wrong(key, f"a whole number from 1 to {at_most}")
        return value

    def flag(self, key: str) -> bool:
        """The truth value of that name; false where it is missing."""
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def seconds(self, key: str, default: float, at_least: float) -> float:
        """The number of seconds of that name, a day at most."""
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(key, "a number of seconds")
        if not at_least <= value <= _MOST_SECONDS:  # false for nan, too
            raise self.wrong(key, f"a number of seconds from {at_least:g} to {_MOST_SECONDS:g}")
        return float(value)


def read_env_file(path: Path) -> dict[str, str]:
    """The variables of a `.env`.

    Raises:
        ProjectError: it cannot be read; nothing of it is quoted, because it holds passwords.
    """
    from dotenv import dotenv_values
    from dotenv.parser import parse_stream

    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ProjectError(
            f"{path} cannot be read: {error.strerror}",
            remedy="Let the user of this process read it (chmod, chown).",
        ) from None
    except UnicodeDecodeError:  # its text would quote the file
        text = "\0"
    if "\0" in text:  # of UTF-16, which may be UTF-8 otherwise
        raise ProjectError(f"{path} is not UTF-8", remedy="Save it as UTF-8.") from None
    for binding in parse_stream(StringIO(text)):
        if binding.error:
            raise ProjectError(
                f"{path}: line {binding.original.line} cannot be read",
                remedy="Write NAME=value, a quoted value with a quote at its end, too.",
            )
    values = dotenv_values(stream=StringIO(text))
    return {name: value for name, value in values.items() if value is not None}


def current_folder() -> Path:
    """The folder that this process is in.

    Raises:
        ProjectError: it has been deleted meanwhile.
    """
    try:
        return Path.cwd()
    except OSError as error:
        raise ProjectError(
            f"the current folder cannot be told: {error.strerror}",
            remedy="It may have been deleted: cd into another one.",
        ) from error
