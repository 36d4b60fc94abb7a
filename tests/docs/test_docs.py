"""What the documentation says is so: its code runs, its commands exist, its tables are the code's.

Pages that are stories (`<!-- story: … -->`) are played from top to bottom by test_stories.py. The
Python of all others is run here, a page's blocks in one namespace; each job that a block declares
works on the example tables to its end, unless a comment before the block says `declared only`.
"""

from __future__ import annotations

import ast
import inspect
import logging
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path

import click
import psycopg
import pytest
from psycopg.rows import TupleRow

import backfill
from backfill import events
from backfill.checkpoint import Checkpoint
from backfill.cli.root import cli
from backfill.engine import batch, judge, sizing, work
from backfill.errors import ExitCode
from backfill.events import Event
from backfill.job.anatomy import ARGUMENTS, TRANSFORMS, is_abstract
from backfill.model import TRANSITIONS, Counts, PauseCause, RunState, SignalState
from backfill.redis_url import PARAMETERS
from backfill.settings import EngineSettings, Settings
from tests.docs.pages import (
    PAGES,
    ROOT,
    anchors,
    blocks,
    commands,
    name_of,
    prose,
    raw_table,
    sections,
    story_of,
    table,
    taken_apart,
)

REFERENCE = ROOT / "docs" / "reference"
HOW_IT_WORKS = ROOT / "docs" / "how-it-works.md"

#: The tables that the examples work on.
EXAMPLES = """
CREATE TABLE users (
    id bigint PRIMARY KEY, first text, last text, email text, phones text, left_on date,
    email_lower text, full_name text, has_left boolean, score integer, place text
);
CREATE TABLE phones (user_id bigint, number text, PRIMARY KEY (user_id, number));
CREATE TABLE users_archive (LIKE users INCLUDING ALL);
CREATE TABLE addresses (address text PRIMARY KEY, holder bigint);
INSERT INTO users (id, first, last, email, phones, left_on)
SELECT i, 'First' || i, 'Last' || i, 'User' || i || '@Example.org',
       CASE WHEN i % 3 = 0 THEN '+49 30 1, +49 30 2' END,
       CASE WHEN i % 5 = 0 THEN date '2019-06-01' END
  FROM generate_series(1, 500) AS i;
"""


# ------------------------------------------------------------------------------ code and commands


def pages_with_python() -> list[Path]:
    return [page for page in PAGES if story_of(page) is None and blocks(page, "python")]


@pytest.mark.parametrize("page", pages_with_python(), ids=name_of)
def test_the_python_of_a_page_runs_and_its_jobs_succeed(
    page: Path,
    db_url: str,
    conn: psycopg.Connection[TupleRow],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACKFILL_DATABASE_URL", db_url)
    conn.execute(EXAMPLES)
    namespace: dict[str, object] = {"__name__": "example"}
    ran = 0
    for block in blocks(page, "python"):
        before = set(namespace)
        exec(compile(block.text, block.place, "exec"), namespace)
        if block.marker.startswith("declared only"):
            continue
        for name in [name for name in namespace if name not in before]:
            value = namespace[name]
            if isinstance(value, type) and issubclass(value, backfill.Job):
                if is_abstract(value):
                    continue
                # without the window and rate of the example, which would make the test wait
                done = backfill.run(value, options=backfill.Options())
                assert done.state is RunState.SUCCEEDED, f"{block.place}: {name} is {done.state}"
                assert done.counts.written, f"{block.place}: {name} wrote nothing"
                ran += 1
    assert ran


def every_command() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in blocks(page, "console"):
            for command in commands(block):
                yield block.place, command


@pytest.mark.parametrize(("place", "command"), list(every_command()))
def test_a_command_in_a_console_block_can_be_given_like_that(place: str, command: str) -> None:
    _, (program, *arguments) = taken_apart(command)
    if program != "backfill":
        known = {"echo $?", "python servers.py", "python -m pytest -q tests"}
        assert command in known or story_of(ROOT / place.partition(":")[0]) == "apart", place
        return
    context = click.Context(cli)
    group: click.Group = cli
    while True:
        name, found, arguments = group.resolve_command(context, arguments)
        assert found is not None, place
        if not isinstance(found, click.Group):
            break
        group = found
    found.make_context(name, arguments, parent=context)  # raises what the command line would say


def every_mention() -> Iterator[tuple[str, str]]:
    """Commands between backticks, which need not be complete: `backfill enqueue --wait`."""
    for page in PAGES:
        for mention in re.findall(r"`backfill ([a-z][^`]*)`", prose(page)):
            yield name_of(page), mention


@pytest.mark.parametrize(("page", "mention"), sorted(set(every_mention())))
def test_a_command_that_is_mentioned_exists_with_its_options(page: str, mention: str) -> None:
    command: click.Command = cli
    words = mention.split()
    while isinstance(command, click.Group) and words:
        found = command.get_command(click.Context(cli), words.pop(0))
        assert found is not None, f"{page}: backfill {mention}"
        command = found
    known = {name for param in command.params for name in param.opts} | {"--help"}
    assert {word for word in words if word.startswith("-")} <= known, f"{page}: backfill {mention}"


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
        assert named <= targets, name_of(page)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{name_of(page)}: {target}"
        assert linked.is_relative_to(ROOT), f"{name_of(page)}: {target}"
        assert not anchor or anchor in anchors(linked), f"{name_of(page)}: {target}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        for target in re.findall(r"\]\(([^)#]+\.md)", prose(page)):
            linked = (page.parent / target).resolve()
            if linked not in reached and not target.startswith("http"):
                waiting.append(linked)
    assert set(PAGES) <= reached


# ------------------------------------------------------------------------------------- the tables


def literal(text: str) -> object:
    """A default as a table gives it, in Python's or TOML's words."""
    return ast.literal_eval({"none": "None", "false": "False", "true": "True"}.get(text, text))


def test_every_option_is_documented_with_its_default() -> None:
    documented = {
        name: literal(default)
        for name, default, _ in table(sections(REFERENCE / "jobs.md")["Options"], "option")
    }
    assert documented == backfill.Options().to_json()


def test_every_engine_setting_is_documented_with_its_default() -> None:
    text = sections(REFERENCE / "settings.md")["[engine]"]
    documented = {name: literal(default) for name, default, _ in table(text, "setting")}
    assert documented == {field.name: field.default for field in fields(EngineSettings)}


def test_every_setting_at_the_top_is_documented_with_its_default() -> None:
    text = sections(REFERENCE / "settings.md")["The top of the file"]
    documented = {name: literal(default) for name, default, _ in table(text, "setting")}
    defaults = {f.name: f.default for f in fields(Settings) if f.default is not MISSING}
    names = ("jobs", "setup", "schema", "queue", "celery_app", "log_format", "log_level")
    assert documented == {name: defaults[name] for name in names} | {"jobs": list(Settings().jobs)}


def test_the_settings_of_databases_and_redis_are_documented_with_their_defaults() -> None:
    text = sections(REFERENCE / "settings.md")
    documented = table(text["[databases.NAME]"], "setting")
    assert {name: default for name, default, _ in documented} == {
        "url_env": "required",
        **dict.fromkeys(("confirm", "source_only"), "false"),
        "max_slots": "none",
        "replica_url_envs": "[]",
        "prometheus_url_env": "none",
        "ignored_standbys": "[]",
    }
    redis = {name: literal(default) for name, default, _ in table(text["[redis]"], "setting")}
    assert redis == {"url_env": Settings().redis_url_env}
    told = set(re.findall(r"`(\w+)`", text["[redis]"].partition("have these parameters")[2]))
    assert told == {name for known in PARAMETERS.values() for name in known}


def test_every_exit_code_is_documented() -> None:
    rows = table((REFERENCE / "exit-codes.md").read_text(encoding="utf-8"), "code")
    assert {name: int(code) for code, name, *_ in rows} == {
        code.name: int(code) for code in ExitCode
    }


def test_the_state_machine_is_drawn_as_the_code_has_it() -> None:
    (drawing,) = blocks(HOW_IT_WORKS, "mermaid")
    drawn = set(re.findall(r"^ *(\w+) --> (\w+)", drawing.text, re.MULTILINE))
    assert drawn == {(str(old), str(new)) for old, news in TRANSITIONS.items() for new in news}


def test_the_causes_of_a_pause_are_those_that_something_raises() -> None:
    source = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "backfill").rglob("*.py"))
    # the cause is an argument of `pause`, `_pause` or `add_cause`, within its first lines
    raised = {
        str(PauseCause[name])
        for name in re.findall(
            r"(?:paused?|add_cause)\((?:[^()]|\(\))*?PauseCause\.(\w+)", source, re.DOTALL
        )
    }
    text = sections(HOW_IT_WORKS)["The life of a run"]
    assert {cause for cause, *_ in table(text, "cause")} == raised


def test_what_follows_from_a_signal_is_documented_for_each_state_with_its_steps() -> None:
    text = sections(HOW_IT_WORKS)["Signals"]
    assert [state for state, _ in table(text, "the worst of its signals")] == list(SignalState)
    assert f"down to {judge.FLOOR * 100:.0f} % of its full speed" in text
    assert f"adds {judge.STEP * 100:.0f} % of it" in text


def test_every_outcome_of_a_key_is_documented() -> None:
    text = sections(HOW_IT_WORKS)["One batch"]
    documented = [name for name, _ in table(text, "outcome")]
    assert documented == [name for name in Counts().as_dict() if name != "paged"]


def test_the_points_at_which_a_process_can_die_are_those_that_the_tests_kill_it_at() -> None:
    source = inspect.getsource(batch) + inspect.getsource(work)
    probed = set(re.findall(r'probe\("([^"]+)"\)', source))
    text = sections(HOW_IT_WORKS, "###")["Where a process can die"]
    assert {point for point, _ in table(text, "the process dies")} == probed


def test_the_numbers_of_batch_sizes_are_those_of_the_code() -> None:
    text = sections(HOW_IT_WORKS, "###")["How batch sizes follow the target"]
    for number in (
        f"(until there are {sizing.ENOUGH},",
        f"`target_batch_seconds` ({backfill.Options().target_batch_seconds} s)",
        f"The first one has {sizing.FIRST_ROWS} rows",
        f"in the last {sizing.RECENT} batches",
        f"at most {sizing.GROWTH} times the one before",
    ):
        assert number in text
    assert sizing.WHOLE_SHARE == 0.5  # "less than half"
    assert (sizing.FAR_OVER, sizing.CUT) == (5.0, 10)  # "five times", "a tenth"


def test_every_public_name_and_hook_is_documented() -> None:
    text = (REFERENCE / "jobs.md").read_text(encoding="utf-8")
    missing = [name for name in backfill.__all__ if not re.search(rf"\b{name}\b", text)]
    assert missing == ["__version__"]
    hooks = {signature.partition("(")[0] for signature, _ in table(text, "hook")}
    assert hooks == set(ARGUMENTS) - {*TRANSFORMS, "__init__"}


def leaves(group: click.Group, path: str = "backfill") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from leaves(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def test_every_command_is_documented_with_all_its_options() -> None:
    documented = {
        heading: options_in(text) for heading, text in sections(REFERENCE / "cli.md").items()
    }
    assert documented == {
        path: {
            name
            for param in command.params
            if isinstance(param, click.Option)
            for name in param.opts
        }
        for path, command in leaves(cli)
    }


def options_in(section: str) -> set[str]:
    if "| option |" not in section:
        return set()
    return {
        name
        for row in raw_table(section, "option")
        for name in re.findall(r"`(--?[a-z-]+)`", row[0])
    }


# ------------------------------------------------------------------------------------- the events


EVENTS = sections(REFERENCE / "events.md")
IN_LEDGER = table(EVENTS["In the ledger and in the log"], "event")
IN_LOG_ALONE = table(EVENTS["In the log alone"], "event")


def names_and_fields(rows: list[list[str]], *, of: int, at: int) -> dict[str, list[str]]:
    """Fields by event; several events of one row are taken apart."""
    return {name: re.findall(r"\w+", row[at]) for row in rows for name in re.split(r", ", row[of])}


def test_every_event_is_documented_with_the_fields_of_the_contract() -> None:
    contract = events.__doc__ or ""
    first, second = contract.split("All of these are rows of the ledger", 1)
    for documented, told in ((IN_LEDGER, first), (IN_LOG_ALONE, second)):
        assert names_and_fields(documented, of=0, at=3) == names_and_fields(
            table(told, "event"), of=0, at=2
        )
    assert {row[0] for row in IN_LEDGER + IN_LOG_ALONE} == {str(event) for event in Event}


def test_the_levels_of_the_ledgers_events_are_those_of_the_log() -> None:
    assert {row[0]: row[1] for row in IN_LEDGER} == {
        row[0]: logging.getLevelName(events.LEVELS.get(Event(row[0]), logging.INFO)).lower()
        for row in IN_LEDGER
    }


# --------------------------------------------------------------------------- ledger and checkpoint


def test_the_ledgers_columns_are_there_with_these_types(conn: psycopg.Connection[TupleRow]) -> None:
    for name, text in sections(REFERENCE / "ledger.md").items():
        documented = {column: kind for column, kind, _ in table(text, "column")}
        there = {
            column: kind.replace("timestamp with time zone", "timestamptz")
            for column, kind in conn.execute(
                "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
                " WHERE attrelid = to_regclass(%s) AND attnum > 0",
                [f"backfill.{name}"],
            )
        }
        assert documented.items() <= there.items(), name


def test_the_sql_in_the_reference_runs(conn: psycopg.Connection[TupleRow]) -> None:
    ran = [conn.execute(block.text.encode()) for block in blocks(REFERENCE / "ledger.md", "sql")]
    assert ran


def test_the_keys_in_redis_are_the_documented_ones(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import redis

    monkeypatch.setattr("backfill.checkpoint.CALL_SECONDS", 10.0)  # busy machines answer late
    checkpoint = Checkpoint(redis_url, "LEDGER")
    checkpoint.rebuild("RUN", [(1, 1, Counts(paged=1, written=1))])
    assert checkpoint.take("RUN", 1, 100.0, burst=0.2, late=0.0) is not None
    assert checkpoint.count("RUN", "process", 1, {"batches:walk": 1})
    checkpoint.publish("RUN", "{}", "{}")
    checkpoint.put_pulses("RUN", ["{}"])
    checkpoint.publish_overview("{}")
    checkpoint.close()
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    kinds = {str(key): str(client.type(key)) for key in client.scan_iter()}
    client.close()
    text = (REFERENCE / "redis.md").read_text(encoding="utf-8")
    assert {key: kind for key, kind, _ in table(text, "key")} == kinds
