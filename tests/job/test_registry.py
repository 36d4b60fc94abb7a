"""The jobs of a project, found in the modules that its settings name."""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from backfill.errors import ProjectError, UsageError
from backfill.job import load

JOB = """
from backfill import Delete, Job, Table

class {name}(Job):
    source = Table("users")
    target = Delete()
"""


@pytest.fixture
def package() -> str:
    """A name that no other test has imported."""
    return f"jobs_{uuid4().hex}"


@pytest.fixture
def project(tmp_path: Path, package: str) -> Iterator[Path]:
    """An empty project; its modules are forgotten afterwards."""
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]


def write(project: Path, **modules: str) -> None:
    for name, text in modules.items():
        file = project / Path(*name.split("__")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def test_jobs_are_found_in_a_module(project: Path, package: str) -> None:
    write(project, **{package: JOB.format(name="LowerEmail") + JOB.format(name="Fix")})
    registry = load([package], project=project)
    assert list(registry.jobs) == ["fix", "lower_email"]
    assert registry.jobs["fix"].__name__ == "Fix"
    assert registry.broken == {}


def test_jobs_are_found_in_all_modules_of_a_package(project: Path, package: str) -> None:
    folder = project / package
    (folder / "deep" / "deeper").mkdir(parents=True)
    for path in (folder, folder / "deep", folder / "deep" / "deeper"):
        (path / "__init__.py").touch()
    (folder / "__main__.py").write_text("raise SystemExit('not to be imported')")
    (folder / "one.py").write_text(JOB.format(name="One"))
    (folder / "deep" / "deeper" / "two.py").write_text(JOB.format(name="Two"))
    registry = load([package], project=project)
    assert list(registry.jobs) == ["one", "two"]
    assert registry.broken == {}


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(
    project: Path, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / package).mkdir()

    def refusing(look: Callable[[str], object]) -> Callable[[str], object]:
        def refuse(path: str) -> object:  # root, who runs these tests, may read all
            if Path(path).name == package:
                raise PermissionError(errno.EACCES, "Permission denied", path)
            return look(path)

        return refuse

    monkeypatch.setattr("os.listdir", refusing(os.listdir))
    monkeypatch.setattr("os.scandir", refusing(os.scandir))
    registry = load([package], project=project)
    why = f"{project / package} cannot be read: Permission denied"
    assert registry.broken == {package: why}
    with pytest.raises(ProjectError, match="cannot be read"):
        registry.find("one")


@pytest.mark.parametrize(
    ("name", "file", "rename"),
    [
        ("json", "json.py", "/json.py"),
        ("json", None, "; rename yours"),
        ("sys", None, "Python itself"),
        ("redis", "redis/__init__.py", "/redis"),
        ("redis", "redis/work.py", "/redis"),
    ],
)
def test_a_module_that_is_not_the_projects_is_not_taken_for_it(
    project: Path, name: str, file: str | None, rename: str
) -> None:
    if file is not None:
        (project / file).parent.mkdir(exist_ok=True)
        (project / file).write_text(JOB.format(name="One"))
    registry = load([name], project=project)
    assert registry.jobs == {}
    assert "not from the project" in registry.broken[name]
    assert rename in registry.broken[name]


def test_a_package_of_jobs_may_be_installed_elsewhere(
    project: Path, package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also where the project has a folder of that name without a module in it."""
    site = tmp_path / "site"
    write(site, **{f"{package}__a": JOB.format(name="One")})
    (project / package).mkdir()
    (project / package / "data.csv").touch()
    (site / package / "__init__.py").touch()
    monkeypatch.syspath_prepend(site)
    assert list(load([package], project=project).jobs) == ["one"]


@pytest.mark.parametrize("file", ["celery.py", "kombu/__init__.py"])
def test_a_file_that_hides_a_library_of_ours_is_refused(
    project: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = file.partition("/")[0].removesuffix(".py")
    monkeypatch.delitem(sys.modules, name, raising=False)
    (project / file).parent.mkdir(exist_ok=True)
    (project / file).touch()
    with pytest.raises(ProjectError, match=f"hides the library {name}") as caught:
        load([], project=project)
    assert str(project / file) in caught.value.message
    assert "Rename it" in caught.value.remedy


def test_a_module_named_twice_is_no_second_job(project: Path, package: str) -> None:
    write(project, **{f"{package}__a": JOB.format(name="One")})
    registry = load([package, f"{package}.a", package], project=project)
    assert list(registry.jobs) == ["one"]


def test_a_job_counts_where_it_is_defined(project: Path, package: str) -> None:
    write(
        project,
        **{
            f"{package}__a": JOB.format(name="One"),
            f"{package}__b": f"from backfill import Job, Table\nfrom {package}.a import One\n"
            "class Gentle(Job): pass\n"
            "class OfUsers(Job, abstract=True):\n    source = Table('users')\n",
        },
    )
    assert list(load([f"{package}.b"], project=project).jobs) == []
    assert list(load([package], project=project).jobs) == ["one"]


def test_a_broken_module_does_not_hide_the_jobs_of_others(project: Path, package: str) -> None:
    write(
        project,
        **{
            f"{package}__good": JOB.format(name="Good"),
            f"{package}__a_type": "\n" + JOB.format(name="Bad").replace('Table("users")', "'u'"),
            f"{package}__a_value": "x = 1\nint('many')\nclass Lost: ...",
            f"{package}__an_exit": "import sys\nsys.exit('bye')",
            f"{package}__an_import": "import no_such_module_anywhere",
            f"{package}__syntax": "x = 1\ndef f(:\n",
            f"{package}__table": "from backfill import Table\n\nx = Table('a;')",
        },
    )
    registry = load([package, "no_such_module_either"], project=project)
    assert list(registry.jobs) == ["good"]
    broken = {module.removeprefix(f"{package}."): e for module, e in registry.broken.items()}
    assert set(broken) == {
        "a_type",
        "a_value",
        "an_exit",
        "an_import",
        "syntax",
        "table",
        "no_such_module_either",
    }
    assert broken["a_type"] == (
        "DeclarationError: Bad: source is 'u'. Write source ="
        f' Table("users", todo="email_lower IS NULL"). ({package}/a_type.py:5)'
    )
    assert broken["a_value"].startswith("ValueError: invalid literal")
    assert broken["a_value"].endswith(f"({package}/a_value.py:2)")
    assert broken["an_exit"] == f"SystemExit: bye ({package}/an_exit.py:2)"
    assert f"({package}/an_import.py:1)" in broken["an_import"]
    assert broken["syntax"].startswith("SyntaxError: ")
    assert broken["syntax"].endswith(f"({package}/syntax.py:2)")
    assert broken["table"].endswith(f"({package}/table.py:3)")
    assert "no_such_module_either" in broken["no_such_module_either"]
    assert not any("\n" in error for error in broken.values())


def test_a_broken_package_is_one_finding(project: Path, package: str) -> None:
    write(project, **{f"{package}__a": JOB.format(name="One")})
    (project / package / "__init__.py").write_text("1 / 0")
    registry = load([package], project=project)
    assert registry.jobs == {}
    assert registry.broken == {
        package: f"ZeroDivisionError: division by zero ({package}/__init__.py:1)"
    }


def test_two_jobs_of_one_name_are_both_named(project: Path, package: str) -> None:
    write(
        project,
        **{f"{package}__a": JOB.format(name="Fix"), f"{package}__b": JOB.format(name="Fix")},
    )
    with pytest.raises(ProjectError) as refusal:
        load([package], project=project)
    assert f"{package}.a.Fix" in refusal.value.message
    assert f"{package}.b.Fix" in refusal.value.message
    assert "name =" in refusal.value.remedy


def test_setup_runs_before_the_jobs_are_imported(project: Path, package: str) -> None:
    write(
        project,
        **{
            f"{package}__boot": "ready = []\ndef setup():\n    ready.append(1)",
            f"{package}__jobs": f"from {package}.boot import ready\nassert ready == [1]\n"
            + JOB.format(name="Fix"),
        },
    )
    registry = load([f"{package}.jobs"], project=project, setup=f"{package}.boot:setup")
    assert (list(registry.jobs), registry.broken) == (["fix"], {})


@pytest.mark.parametrize(
    ("body", "setup", "mistake"),
    [
        ("", "boot", "does not say what to call"),
        ("", "boot:", "does not say what to call"),
        ("", "boot:setup", "AttributeError"),
        ("def setup():\n    raise KeyError('DJANGO')", "boot:setup", "KeyError: 'DJANGO'"),
        ("raise SystemExit(3)", "boot:setup", "SystemExit: 3"),
    ],
)
def test_a_setup_that_fails_is_a_project_error(
    project: Path, package: str, body: str, setup: str, mistake: str
) -> None:
    write(project, **{f"{package}__boot": body})
    with pytest.raises(ProjectError, match="setup = ") as refusal:
        load([], project=project, setup=f"{package}.{setup}")
    assert mistake in refusal.value.message


def test_a_job_is_found_by_its_name(project: Path, package: str) -> None:
    write(project, **{package: JOB.format(name="LowerEmail")})
    assert load([package], project=project).find("lower_email").__name__ == "LowerEmail"


@pytest.mark.parametrize("wrong", ["lower_emial", "LowerEmail", "lower-email"])
def test_a_job_that_does_not_exist_is_told_the_nearest(
    project: Path, package: str, wrong: str
) -> None:
    write(project, **{package: JOB.format(name="LowerEmail") + JOB.format(name="Fix")})
    with pytest.raises(UsageError, match=f"there is no job {wrong}") as refusal:
        load([package], project=project).find(wrong)
    assert refusal.value.remedy == "Did you mean lower_email?"


def test_a_job_that_may_be_in_a_broken_module_names_it(project: Path, package: str) -> None:
    write(project, **{f"{package}__a": JOB.format(name="Fix"), f"{package}__b": "1 / 0"})
    with pytest.raises(ProjectError, match="there is no job lower_email") as refusal:
        load([package], project=project).find("lower_email")
    assert f"{package}.b: ZeroDivisionError" in refusal.value.message


def test_a_project_without_jobs_says_how_to_make_one(project: Path) -> None:
    with pytest.raises(UsageError, match="the project has no jobs") as refusal:
        load([], project=project).find("fix")
    assert "backfill new" in refusal.value.remedy


def test_without_a_project_the_path_is_left_as_it_is() -> None:
    before = list(sys.path)
    load([], project=None)
    assert sys.path == before
