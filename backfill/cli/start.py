"""`backfill init` and `backfill new`: the first files, never written over others."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from importlib import resources
from pathlib import Path
from string import Template

import click

from backfill.cli.session import Session, pass_session
from backfill.cli.tell import say_done
from backfill.errors import BackfillError, ProjectError, RefusedError, UsageError

#: A module's name that can be a job's name, too.
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_LONGEST_NAME = 50


@click.command()
@pass_session
def init(session: Session) -> None:
    """Make a project here: settings and a package for jobs."""
    from backfill.settings_file import PYPROJECT, SETTINGS_FILE, current_folder, read_settings

    folder = (session.folder or current_folder()).absolute()
    has_settings = folder.is_dir() and read_settings(folder) is not None
    texts = {
        SETTINGS_FILE: _template("backfill.toml"),
        "jobs/__init__.py": _template("jobs_init.py.txt"),
        ".env.example": _template("env.example"),
    }
    if has_settings and not (folder / SETTINGS_FILE).exists():
        click.echo(f"kept     [tool.backfill] in {PYPROJECT}: the settings are there")
        del texts[SETTINGS_FILE]
    _write(folder, texts)
    click.echo(
        "\nNext:\n"
        "  1. copy .env.example to .env, write your URLs there, and keep .env out of git\n"
        "  2. backfill db upgrade     installs the ledger in the database\n"
        "  3. backfill new NAME       writes a job's first version\n"
        "  4. backfill run NAME       works on it in this process"
    )


@click.command()
@click.argument("name", metavar="NAME")
@pass_session
def new(session: Session, name: str) -> None:
    """Write a job's first version, to be changed by you."""
    _check(name)
    settings = session.project.settings
    root = settings.project
    if root is None:
        raise ProjectError("there is no project here", remedy="Make one with `backfill init`.")
    package = next((m for m in settings.jobs if (root / m.replace(".", "/")).is_dir()), None)
    if package is None:
        raise ProjectError(
            "none of the modules under jobs in the project's settings is a folder"
            f" ({', '.join(settings.jobs) or 'none is named'})",
            remedy='Write jobs = ["jobs"] and make the folder jobs, or run `backfill init`.',
        )
    folder = root / package.replace(".", "/")
    if (folder / name).exists() or (folder / f"{name}.py").exists():
        raise RefusedError(
            f"{package.replace('.', '/')}/{name}.py is there already", remedy="Choose another name."
        )
    if name in _known_jobs(session):
        raise RefusedError(
            f"there is a job {name} already",
            remedy="Choose another name: a job's name is permanent.",
        )
    text = Template(_template("job.py.txt")).substitute(
        name=name,
        class_name="".join(word.capitalize() for word in name.split("_")),
        package=package,
    )
    _write(root, {f"{package.replace('.', '/')}/{name}.py": text})
    click.echo(
        "\nNext:\n"
        "  1. change its table, columns and transform to yours\n"
        "  2. backfill list           shows whether it can be loaded\n"
        f"  3. backfill run {name}"
    )


def _check(name: str) -> None:
    if _NAME.fullmatch(name) is None or keyword.iskeyword(name) or len(name) > _LONGEST_NAME:
        raise UsageError(
            f"{name!r} cannot be a job's name",
            remedy="Write small letters, digits and _, beginning with a letter, such as"
            f" fill_departure; at most {_LONGEST_NAME}, and no word of Python's.",
        )


def _known_jobs(session: Session) -> set[str]:
    """The jobs that can be loaded; a broken module is no reason not to write another."""
    try:
        return set(session.project.registry.jobs)
    except BackfillError:
        return set()


def _template(name: str) -> str:
    return (resources.files("backfill.cli") / "templates" / name).read_text(encoding="utf-8")


def _write(root: Path, texts: Mapping[str, str]) -> None:
    """Write new files and say so; those that are there stay as they are.

    Raises:
        ProjectError: one cannot be written; then none is.
    """
    with ExitStack() as undo:
        written = {name: _write_new(root / name, text, undo) for name, text in texts.items()}
        undo.pop_all()
    for name, is_new in written.items():
        if is_new:
            say_done(f"created  {name}")
        else:
            click.echo(f"kept     {name} (it was there)")


def _write_new(path: Path, text: str, undo: ExitStack) -> bool:
    """Write a file; False where it is there. `undo` takes it away again, with its new folders.

    Raises:
        ProjectError: it cannot be written.
    """
    try:
        for folder in reversed([one for one in path.parents if not one.exists()]):
            folder.mkdir()
            undo.callback(_take_away, folder.rmdir)
        with path.open("x", encoding="utf-8") as file:
            undo.callback(_take_away, path.unlink)
            file.write(text)
    except FileExistsError:
        if not path.is_file():
            raise ProjectError(
                f"{path} cannot be written: a folder or file is in the way"
            ) from None
        return False
    except NotADirectoryError:
        raise ProjectError(f"{path} cannot be written: a folder or file is in the way") from None
    except OSError as error:
        raise ProjectError(f"{path} cannot be written: {error.strerror}") from error
    return True


def _take_away(remove: Callable[[], None]) -> None:
    with suppress(OSError):  # what was in the way is what is told
        remove()
