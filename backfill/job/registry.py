"""The jobs of a project: found by importing the modules that its settings name.

A module that cannot be imported does not hide the jobs of the others: it is kept with its error,
for `backfill list` to show.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType

from backfill.errors import BackfillError, ProjectError, UsageError
from backfill.job.anatomy import is_abstract, snake_case
from backfill.job.job import Job
from backfill.job.suggestion import did_you_mean

#: Folders in which an error surfaces, but does not arise: this package, the import machinery.
_NOT_THE_CAUSE = (Path(__file__).resolve().parents[1], Path(importlib.__file__).resolve().parent)

#: Libraries that are imported when a message is to be sent, after the project is on the path.
_IMPORTED_LATE = ("celery", "kombu", "billiard", "vine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry:
    """What was found.

    Attributes:
        jobs: the jobs that can run, by name, in alphabetical order; read-only.
        broken: modules that cannot be imported, with the error in one line; read-only.
    """

    jobs: Mapping[str, type[Job]]
    broken: Mapping[str, str]

    def find(self, name: str) -> type[Job]:
        """The job of that name.

        Raises:
            UsageError: there is none.
            ProjectError: there is none, and a broken module may be where it stands.
        """
        if (job_class := self.jobs.get(name)) is not None:
            return job_class
        if self.broken:
            listed = "; ".join(f"{module}: {error}" for module, error in self.broken.items())
            raise ProjectError(
                f"there is no job {name} in the modules that can be imported; it may stand in one"
                f" that cannot: {listed}",
                remedy="Mend it there, or correct the name.",
            )
        if not self.jobs:
            raise UsageError(
                f"there is no job {name}: the project has no jobs",
                remedy="Make one with `backfill new NAME`, or name its module under jobs in the "
                "project's settings.",
            )
        raise UsageError(
            f"there is no job {name}", remedy=did_you_mean(snake_case(name), self.jobs)
        )


def load(modules: Sequence[str], *, project: Path | None, setup: str | None = None) -> Registry:
    """Import the modules, and of packages all that is in them, and collect their jobs.

    Args:
        modules: names such as `jobs` or `myapp.backfills`; a job counts where it is defined.
        project: the folder to put on `sys.path`; None: it is left as it is.
        setup: what to call first, such as `myapp.boot:setup`.

    Raises:
        ProjectError: `setup` fails, two jobs have the same name, or a file of the project hides a
            library that we need.
    """
    _put_on_path(project)
    if setup is not None:
        _call(setup, project)
    broken: dict[str, str] = {}
    jobs: dict[str, type[Job]] = {}
    seen: set[str] = set()
    for name in modules:
        for module in _imported(name, project, broken, seen):
            for job_class in _defined_in(module):
                other = jobs.setdefault(job_class.name, job_class)
                if other is not job_class:
                    raise ProjectError(
                        f"two jobs have the name {job_class.name}: "
                        f"{_place(other)} and {_place(job_class)}",
                        remedy='Give one of them another: name = "...". A name is permanent: '
                        "leave it to the one that has run.",
                    )
    return Registry(
        jobs=MappingProxyType(dict(sorted(jobs.items()))), broken=MappingProxyType(broken)
    )


def find_object(named: str, *, project: Path | None, what: str) -> object:
    """Import what a setting names, such as `myapp.celery:app`.

    Args:
        what: the setting, for messages.

    Raises:
        ProjectError: it cannot be imported.
    """
    _put_on_path(project)
    module_name, _, name = named.partition(":")
    try:
        return getattr(importlib.import_module(module_name), name)
    except (Exception, SystemExit) as error:
        raise ProjectError(
            f"{what} = {named!r} cannot be used: {_one_line(error, project)}",
            remedy="Mend it, or take it out of the project's settings.",
        ) from error


def _put_on_path(project: Path | None) -> None:
    if project is not None:
        _refuse_hiding(project)
        if (folder := str(project.resolve())) not in sys.path:
            sys.path.insert(0, folder)
    # a module may have been written a moment ago
    importlib.invalidate_caches()


def _refuse_hiding(project: Path) -> None:
    """What is imported when it is first needed would be the project's file instead."""
    for name in _IMPORTED_LATE:
        loaded = sys.modules.get(name)
        if (own := _own_files(name, project)) and (loaded is None or _is_one_of(loaded, own)):
            raise ProjectError(
                f"{own[0]} hides the library {name}, which backfill needs",
                remedy="Rename it: the project's folder comes first where modules are looked for.",
            )


def _own_files(name: str, project: Path) -> list[Path]:
    """The files of the project that a module of that name would be made of."""
    folder = project.resolve().joinpath(*name.split("."))
    found = [folder / "__init__.py", folder.parent / f"{folder.name}.py"]
    found = [path for path in found if path.is_file()]
    return found or ([folder] if any(folder.glob("*.py")) else [])


def _is_one_of(module: ModuleType, files: Sequence[Path]) -> bool:
    made_of = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    return any(Path(path).resolve() == file.resolve() for path in made_of if path for file in files)


def _stranger(module: ModuleType, project: Path | None) -> str | None:
    """Why a module that `jobs` names is not the one that is meant; None where it may be."""
    name = module.__name__
    own = [] if project is None else _own_files(name, project)
    is_pythons = name.partition(".")[0] in sys.stdlib_module_names
    if _is_one_of(module, own) or not (own or is_pythons):
        return None
    place = getattr(module, "__file__", None) or "Python itself"
    mine = str(own[0]).removesuffix("/__init__.py") if own else "yours"
    return f"it comes from {place}, not from the project; rename {mine}"


def _call(setup: str, project: Path | None) -> None:
    module_name, colon, function_name = setup.partition(":")
    if not (module_name and colon and function_name):
        raise ProjectError(
            f"setup = {setup!r} does not say what to call",
            remedy='Write setup = "myapp.boot:setup".',
        )
    try:
        getattr(importlib.import_module(module_name), function_name)()
    except (Exception, SystemExit) as error:
        raise ProjectError(
            f"setup = {setup!r} failed: {_one_line(error, project)}",
            remedy="The project's jobs cannot be imported before it works.",
        ) from error


def _imported(
    name: str, project: Path | None, broken: dict[str, str], seen: set[str]
) -> Iterator[ModuleType]:
    if name in seen:
        return
    seen.add(name)
    try:
        module = importlib.import_module(name)
    # whatever the user's code raises at import, also sys.exit(), is a finding about this module
    except (Exception, SystemExit) as error:  # noqa: BLE001
        broken[name] = _one_line(error, project)
        return
    if (why := _stranger(module, project)) is not None:
        broken[name] = why
        return
    yield module
    folders = list(getattr(module, "__path__", ()))
    try:
        for folder in filter(os.path.isdir, folders):
            # pkgutil takes one that it may not read for an empty one
            os.scandir(folder).close()
    except OSError as error:
        broken[name] = f"{error.filename} cannot be read: {error.strerror}"
        return
    for _, child, _ in pkgutil.iter_modules(folders, f"{name}."):
        if not child.endswith(".__main__"):
            yield from _imported(child, project, broken, seen)


def _defined_in(module: ModuleType) -> Iterator[type[Job]]:
    for value in vars(module).values():
        if (
            isinstance(value, type)
            and issubclass(value, Job)
            and value.__module__ == module.__name__
            and not is_abstract(value)
        ):
            yield value


def _place(job_class: type[Job]) -> str:
    return f"{job_class.__module__}.{job_class.__qualname__}"


def _one_line(error: BaseException, project: Path | None) -> str:
    """The error's type, the first line of its message, and where in the user's code it arose.

    The remedy comes with it, unless it is longer than a line.
    """
    if isinstance(error, SyntaxError) and error.filename:
        file, line, message = error.filename, error.lineno or 0, error.msg
    else:
        file, line = _origin(error, project)
        message = (str(error).splitlines() or [""])[0]
        if isinstance(error, BackfillError) and error.remedy and "\n" not in error.remedy:
            message = f"{message.rstrip('.')}. {error.remedy}"
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return f"{text} ({_shown(file, project)}:{line})" if file else text


def _origin(error: BaseException, project: Path | None) -> tuple[str, int]:
    """The innermost place in the project; else the innermost that is not ours."""
    frames = [
        frame
        for frame in reversed(traceback.extract_tb(error.__traceback__))
        if (path := Path(frame.filename).resolve()).is_file()
        and not any(path.is_relative_to(folder) for folder in _NOT_THE_CAUSE)
    ]
    if not frames:
        return "", 0
    at = next((frame for frame in frames if _is_in(project, frame.filename)), frames[0])
    return at.filename, at.lineno or 0


def _is_in(project: Path | None, file: str) -> bool:
    path = Path(file).resolve()
    return (
        project is not None
        and path.is_relative_to(project.resolve())
        and "site-packages" not in path.parts
    )


def _shown(file: str, project: Path | None) -> str:
    path = Path(file).resolve()
    if project is not None and path.is_relative_to(project.resolve()):
        return str(path.relative_to(project.resolve()))
    return str(path)
