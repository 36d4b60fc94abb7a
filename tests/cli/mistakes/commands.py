"""Wrong words on the command line: commands, flags, jobs, parameters, options, runs, schedules."""

from __future__ import annotations

from collections.abc import Iterator

import click

from backfill.cli.root import cli
from tests.cli.mistakes import Mistake, Place, mistake

QUIET = {"BACKFILL_DATABASE_URL": Place.QUIET}
NIGHTS = ["--cron", "0 22 * * Mon-Fri", "--zone", "Europe/Berlin"]
#: Words that are meant to do harm, or to break whoever shows them.
HOSTILE = [
    "'; DROP TABLE users; --",
    '"; DROP SCHEMA backfill CASCADE; --',
    "%s %(since)s %",
    "{0} {since} {}",
    "$(reboot) `reboot`",
    "../../etc/passwd",
    "🐘 \u202e \u0661",
    "\x1b[2J\x1b]0;owned\x07",
    "two\nlines",
    "x" * 100_000,
]


def _every_command() -> Iterator[list[str]]:
    ctx = click.Context(cli)
    for name in cli.list_commands(ctx):
        command = cli.get_command(ctx, name)
        for sub in command.commands if isinstance(command, click.Group) else [None]:
            yield [name] if sub is None else [name, sub]


EVERY_COMMAND = list(_every_command())
OF_RUNS = [
    *("status", "events", "report", "watch", "pause", "resume", "cancel", "retry"),
    *("tune --rate 5/s", "quarantine list", "quarantine retry", "quarantine accept"),
]

COMMANDS: list[Mistake] = [
    mistake("nonsense", 2, "'nonsense'", "There are: cancel"),
    mistake("statsu", 2, "'statsu'", "Did you mean status?"),
    mistake("stop_all", 2, "'stop_all'", "Did you mean stop-all?"),
    mistake("STATUS", 2, "'STATUS'", "status"),
    mistake("--fast status", 2, "--fast"),
    mistake("--projct . status", 2, "--projct", "--project"),
    mistake("--project", 2, "--project"),
    mistake("quarantine lits", 2, "'lits'", "list"),
    mistake("db downgrade", 2, "'downgrade'", "upgrade"),
    mistake("schedule ad", 2, "'ad'", "add"),
    mistake("notify tst", 2, "'tst'", "test"),
    *(mistake([*words, "--fast"], 2, "--fast") for words in EVERY_COMMAND),
    *(mistake([word], 2, "there is no command") for word in HOSTILE),
    *(
        mistake([*words.split(), "\udcff"], 2, "no text in UTF-8", "locale")
        for words in ("", "status", "run", "new", "--project")
    ),
    mistake("status one two", 2, "two"),
    mistake("status --limit 0", 2, "--limit", "1<=x<=1000"),
    mistake("status --limit some", 2, "--limit", "'some'"),
    mistake("status --jsn", 2, "--jsn", "--json"),
    mistake("events --limit 100001", 2, "--limit", "100000"),
    mistake("quarantine list --limit -1", 2, "--limit"),
    mistake("list extra", 2, "extra"),
    mistake("init extra", 2, "extra"),
    mistake("db grants", 2, "'ROLE'"),
    mistake("db grants worker --job lower_emial", 2, "lower_emial", "Did you mean lower_email?"),
    mistake("db grants worker --database nowhere", 2, "nowhere", "default"),
    mistake("db grants worker -p since=1", 2, "-p", "--job"),
    mistake(["db", "grants", ""], 2, "ROLE"),
    mistake("db upgrade --sql --yes", 2, "--sql"),
    mistake("new", 2, "NAME"),
    mistake(["new", "Bad Name"], 2, "Bad Name"),
    mistake(["new", "../escape"], 2, "../escape"),
    mistake("new class", 2, "class"),
    mistake("new 2fast", 2, "2fast"),
    mistake(["new", "x" * 300], 2, "at most 50"),
    mistake(["new", ""], 2, "name"),
    mistake("report -o nowhere/x.md judge_age", 5, "nowhere/x.md", "No such file"),
    mistake("report -o . judge_age", 2, "'.' is a directory"),
    mistake(["report", "-o", "", "judge_age"], 2, "--output names no file"),
    mistake("worker --concurrency 0", 2, "--concurrency"),
    mistake("worker -- -A other", 2, "-A would name another application", "celery_app"),
    mistake("worker -- --app=other", 2, "--app=other"),
    mistake("dry-run lower_email --rows 1e3", 2, "'1e3' is not a valid whole number."),
    mistake("worker --concurrency 257", 2, "--concurrency", "256"),
    mistake("worker --pool gevent", 2, "'gevent'", "prefork"),
    mistake("worker --loglevel loud", 2, "'loud'", "warning"),
    mistake("worker --metrics-port 0", 2, "--metrics-port"),
    mistake("worker --metrics-port 70000", 2, "--metrics-port"),
    mistake("worker", 2, "BACKFILL_METRICS_PORT", "'many'", BACKFILL_METRICS_PORT="many"),
    mistake("flower --port 70000", 2, "--port"),
    mistake("notify test", 3, "no channel", "[notify.ops]"),
]

JOBS: list[Mistake] = [
    *(mistake(f"{name}", 2, "'JOB'") for name in ("run", "enqueue", "check", "dry-run")),
    *(
        mistake(f"{name} lower_emial", 2, "lower_emial", "Did you mean lower_email?")
        for name in ("run", "enqueue", "check", "dry-run", "schedule add n --at 2099-01-01T00:00Z")
    ),
    mistake(["run", ""], 2, "no job"),
    *(mistake(["run", word], 2, "there is no job") for word in HOSTILE),
    mistake("run lower_email extra", 2, "extra"),
    mistake("run lower_email -p since", 2, "'since'", "name=value"),
    mistake("run lower_email -p =5", 2, "'=5'", "name=value"),
    mistake("run lower_email -p sinse=5", 2, "sinse", "Did you mean since?"),
    mistake("run lower_email -p since=early", 2, "since", "since=2013"),
    mistake("run lower_email -p since=", 2, "since"),
    mistake(f"run lower_email -p since={'9' * 30}", 2, "since", "bigint"),
    mistake(f"run lower_email -p since={'9' * 5000}", 2, "since"),
    mistake("run lower_email -p since=1.5", 2, "since"),
    mistake("run lower_email -p since=1 -p since=2", 2, "since is given twice", "Give it once."),
    *(mistake(["check", "lower_email", "-p", f"since={word}"], 2, "since") for word in HOSTILE),
    mistake("check stock_take -p at=yesterday", 2, "at"),
    mistake("check stock_take -p at=2026-02-30", 2, "at"),
    mistake("check stock_take -p share=half", 2, "share"),
    mistake("check stock_take -p deep=perhaps", 2, "deep"),
    mistake(["check", "stock_take", "-p", "label=a\x00b"], 2, "UTF-8"),
    mistake(["run", "stock_take", "-p", "label=a\x00b"], 2, "UTF-8"),
    mistake(["run", "stock_take", "-p", "label=\udcff"], 2, "UTF-8"),
    mistake("run geocode", 2, "city", "is missing"),
    mistake("run geocode -p city=Rome -p token=x", 2, "token", "SHOP_TOKEN"),
    mistake("run geocode -p city=Rome", 3, "SHOP_TOKEN"),
    mistake("enqueue geocode -p city=Rome", 3, "SHOP_TOKEN"),
    mistake("run lost_table", 3, "no_such_table"),
    mistake("run lost_column", 3, "no_such_column"),
    mistake("dry-run lost_column", 3, "no_such_column"),
    mistake("enqueue lost_target", 3, "no_such_target"),
    mistake("run bad_todo", 3, "BadTodo.source", "NUL"),
    mistake("run bad_sql", 3, "lowr"),
    mistake("dry-run bad_scope", 3, "BadScope.source: where and todo cannot", "22P02", "CASE WHEN"),
    mistake("run keyless", 3, "log", "key"),
    mistake("run null_key", 3, "maybe", "NULL"),
    # bounds of a run
    mistake("run lower_email --from abc", 2, "--from", "column id", "bigint", '"abc"'),
    mistake("enqueue lower_email --to 1e3", 2, "--to", "column id", "bigint"),
    mistake("run lower_email --from 5 --to 5", 2, "--from", "does not come before --to"),
    mistake("run lower_email --limit 0", 2, "--limit"),
    mistake("enqueue lower_email --limit many", 2, "--limit", "'many'"),
    mistake(f"run lower_email --limit {'9' * 30}", 2, "--limit"),
    *(mistake(["run", "lower_email", "--from", word], 2, "column id") for word in HOSTILE),
    mistake("schedule add n lower_email --at 2099-01-01T00:00Z --limit 5", 2, "--limit"),
    # options of a run
    mistake("run lower_email --set rat=5/s", 2, "rat", "Did you mean rate?"),
    mistake("run lower_email --set rate", 2, "'rate'", "name=value"),
    mistake("run lower_email --rate fast", 2, "fast", "20000/s"),
    mistake("run lower_email --rate 0/s", 2, "0/s", "20000/s"),
    mistake("run lower_email --rate 5/parsec", 2, "parsec", "s, min, m, h"),
    mistake(f"run lower_email --rate {'9' * 400}/s", 2, "finite"),
    *(mistake(["run", "lower_email", "--rate", word], 2, "rate") for word in HOSTILE),
    mistake("run lower_email --rate 9/s --set rate=8/s", 2, "rate is given twice"),
    *(
        mistake(f"{command} --set {name}=", 2, f"{name} is empty", "none")
        for command in ("run lower_email", "enqueue lower_email")
        for name in ("lock", "rate", "window", "start_at", "until")
    ),
    *(
        mistake(["tune", "count_visits", f"--{name}", text], 2, "is empty", "none")
        for name in ("rate", "window", "start-at", "until")
        for text in ("", " ")
    ),
    mistake("run lower_email --window 25:00-26:00", 2, "25:00"),
    mistake(["run", "lower_email", "--window", "01:00-02:00 Mars/Base"], 2, "Mars/Base"),
    mistake(["run", "lower_email", "--window", "01:00-02:00 Europe/Berlim"], 2, "Europe/Berlin"),
    *(mistake(["run", "lower_email", "--window", word], 2, "window") for word in HOSTILE),
    mistake("run lower_email --start-at tomorrow", 2, "'tomorrow'", "write it like"),
    mistake("run lower_email --start-at 2099-01-01T00:00", 2, "time zone"),
    mistake("run lower_email --until 2013-01-01T00:00Z", 2, "has passed"),
    *(
        mistake(f"{command} --set until=2013-01-01T00:00Z", 2, "until '2013", "has passed")
        for command in (
            *("run lower_email", "enqueue lower_email", "tune count_visits"),
            "schedule add n lower_email --at 2099-01-01T00:00Z",
        )
    ),
    mistake(
        "schedule add n lower_email --at 2099-01-01T00:00Z --set until=2098-01-01T00:00Z",
        2,
        "until 2098",
        "the first tick, 2099",
        "--set until=INSTANT",
    ),
    mistake("tune count_visits --until 2013-01-01T00:00Z", 2, "has passed", "to come"),
    mistake("run lower_email --until 9999-12-31T23:59-23:59", 2, "9999"),
    *(mistake(["run", "lower_email", "--until", word], 2, "no instant") for word in HOSTILE),
    mistake("run lower_email --concurrency 0", 2, "concurrency"),
    mistake("run lower_email --concurrency many", 2, "error: 'many' is no value for concurrency"),
    mistake("run lower_email --concurrency 2.0", 2, "concurrency is a whole number from 1 to 64"),
    mistake("run lower_email --rate 5", 2, 'error: rate "5": not a number of rows per unit'),
    mistake("run lower_email --set database=", 2, "error: '' is no value for database"),
    mistake("check lower_email --rate 1/d", 2, '"d" is no unit', "s, min, m, h"),
    mistake("run lower_email --window 22:00-22:00", 2, "never opens", "00:00-24:00"),
    mistake("run lower_email --window '22:00 06:00'", 2, "is no range of times"),
    mistake(
        "run lower_email --start-at 2099-01-01T00:00Z --until 2098-01-01T00:00Z",
        2,
        "until",
        "later than start_at",
    ),
    mistake("run lower_email --set batch_rows=auto --batch-rows 5", 2, "is given twice"),
    mistake("run wares:LowerEmail", 2, "there is no job wares:LowerEmail"),
    mistake("run LowerEmail", 2, "Did you mean lower_email?"),
    mistake("enqueue pair_up --from 3", 2, "no JSON array", "a (integer), b (text)"),
    mistake(["enqueue", "pair_up", "--from", "[3]"], 2, "has 1 value; the key", "a (integer)"),
    mistake(["enqueue", "pair_up", "--to", '[3, {"a": 1}]'], 2, "column b is given an object"),
    mistake(
        ["enqueue", "pair_up", "--from", '[3, "b"]', "--to", '[3, "b"]'], 2, "does not come before"
    ),
    mistake("check lower_email --set lock=optimistic", 2, "lock is 'optimistic'", "in Python"),
    mistake("db grants worker --job count_visits --database nowhere", 2, "nowhere"),
    mistake("run lower_email --concurrency 1e9", 2, "1e9"),
    mistake("run lower_email --batch-rows -1", 2, "batch_rows"),
    mistake("run lower_email --batch-rows 999999999", 2, "batch_rows"),
    mistake("run lower_email --set slice_rows=0", 2, "slice_rows"),
    mistake("run lower_email --set duty=2", 2, "duty"),
    mistake("run lower_email --set lock=hard", 2, "lock"),
    mistake("run lower_email --set lock_timeout_seconds=5", 2, "lock_timeout_seconds", "0.9"),
    mistake("run lower_email --set statement_timeout_seconds=nan", 2, "statement_timeout_seconds"),
    mistake("run lower_email --set quarantine_share=1.5", 2, "quarantine_share"),
    mistake("run lower_email --set quarantine_rows=-1", 2, "quarantine_rows"),
    mistake("run lower_email --database nowhere", 2, "nowhere", "default"),
    mistake("dry-run lower_email --rows 0", 2, "--rows"),
    mistake("dry-run lower_email --show 101", 2, "--show"),
    mistake("enqueue lower_email --timeout 5", 2, "--wait"),
    mistake("enqueue lower_email --wait --timeout -1", 2, "--timeout"),
    mistake("enqueue lower_email --wait --timeout nan", 2, "--timeout"),
    # what another run writes already
    mistake("run count_visits", 5, "count_visits"),
    mistake("enqueue count_visits", 5, "count_visits"),
    mistake("run count_again", 5, "visits"),
    mistake("enqueue count_again", 5, "visits"),
]

RUNS: list[Mistake] = [
    *(mistake(f"{name} lost-12345", 2, "'lost-12345'", "`backfill status`") for name in OF_RUNS),
    *(mistake(f"{name} --database nowhere", 2, "nowhere", "default") for name in OF_RUNS),
    *(mistake([*name.split(), ""], 2, "RUN is empty") for name in OF_RUNS if name != "watch"),
    *(
        mistake(f"{name}", 2, "no run is live", "`backfill status`", **QUIET)
        for name in OF_RUNS
        if name not in {"status", "retry"}
    ),
    mistake("retry", 2, "no job's latest run has failed", "`backfill status`", **QUIET),
    *(mistake(["status", word], 2, "there is no run") for word in HOSTILE),
    mistake("cancel e", 2, "'e'"),
    mistake("pause lower_email", 5, "cancelled"),
    mistake("resume lower_email", 5, "cancelled"),
    mistake("cancel lower_email", 5, "cancelled"),
    mistake("retry lower_email", 5, "cancelled"),
    mistake("retry count_visits", 5, "queued"),
    mistake("tune count_visits", 2, "nothing to change"),
    mistake("tune count_visits --rate fast", 2, "fast"),
    mistake("tune count_visits --duty 0", 2, "duty"),
    mistake("tune count_visits --set database=other", 2, "database"),
    mistake("tune count_visits --set rate=1/s --rate 2/s", 2, "rate is given twice"),
    mistake("tune count_visits --set nonsense=1", 2, "nonsense"),
    mistake("tune count_visits --window soon", 2, "soon"),
    mistake("tune count_visits --until 99", 2, "99"),
    mistake("tune count_visits --concurrency 0", 2, "concurrency"),
    mistake("tune lower_email --rate 1/s", 5, "cancelled"),
    mistake(["pause", "count_visits", "--reason", "a\x00b"], 2, "UTF-8"),
    mistake(["cancel", "count_visits", "--reason", "\udcff"], 2, "UTF-8"),
    mistake(["stop-all", "--reason", "a\x00b"], 2, "UTF-8"),
]

SCHEDULES: list[Mistake] = [
    mistake("schedule add n", 2, "'JOB'"),
    mistake("schedule add n lower_email", 2, "either --cron or --at", "--cron"),
    mistake(
        ["schedule", "add", "n", "lower_email", *NIGHTS, "--at", "2099-01-01T00:00Z"], 2, "either"
    ),
    mistake("schedule add n lower_email --at 2099-01-01T00:00Z --zone UTC", 2, "--zone"),
    *(
        mistake(
            ["schedule", "add", "n", "lower_email", "--cron", cron], 2, told, "Write five fields"
        )
        for cron, told in [
            ("0 25 * * *", '"25" is no hour'),
            ("61 * * * *", '"61" is no minute'),
            ("0 22 * *", "has 4 fields"),
            ("0 0 30 2 *", "day-of-month"),
            ("* * * 13 *", "month"),
            ("* * * * Mun", "day-of-week"),
            ("", "has 0 fields"),
            ("@daily", "has 1 fields"),
            ("{} %s ' ; \U0001f418", "minute"),
            ("\x1b[2J \x07 * * *", "minute"),
            (f"{'9' * 5000} * * * *", "cron"),
        ]
    ),
    mistake(
        ["schedule", "add", "n", "lower_email", *NIGHTS[:3], "Europe/Berlim"],
        2,
        'mean "Europe/Berlin"',
    ),
    mistake(["schedule", "add", "n", "lower_email", *NIGHTS[:3], "../UTC"], 2, "../UTC"),
    mistake(["schedule", "add", "n", "lower_email", *NIGHTS[:3], ""], 2, "zone"),
    mistake("schedule add n lower_email --at '2099-01-01 22:00'", 2, "time zone"),
    mistake("schedule add n lower_email --at 2013-01-01T00:00Z", 2, "has passed"),
    *(
        mistake(["schedule", "add", name, "lower_email", *NIGHTS], 2, told)
        for name, told in [
            ("two words", "two words"),
            ("", "name"),
            ("x" * 300, "name"),
            ("a;b", "a;b"),
        ]
    ),
    mistake(
        ["schedule", "add", "n", "lower_email", *NIGHTS, "-p", "sinse=5"], 2, "Did you mean since?"
    ),
    mistake(
        ["schedule", "add", "n", "lower_email", *NIGHTS, "--set", "rat=5/s"],
        2,
        "Did you mean rate?",
    ),
    mistake(
        ["schedule", "add", "n", "geocode", *NIGHTS, "-p", "city=Rome", "-p", "token=x"], 2, "token"
    ),
    mistake(["schedule", "add", "n", "geocode", *NIGHTS], 2, "city"),
    mistake(
        ["schedule", "add", "n", "lower_email", *NIGHTS, "--database", "nowhere"], 2, "nowhere"
    ),
    mistake(
        ["schedule", "add", "n", "lower_email", *NIGHTS, "--if-running", "wait"],
        2,
        "'wait'",
        "skip",
    ),
    mistake(
        ["schedule", "add", "n", "lower_email", *NIGHTS, "--if-missed", "all"], 2, "'all'", "skip"
    ),
    mistake(
        ["schedule", "add", "taken", "lower_email", *NIGHTS], 5, "there is a schedule taken already"
    ),
    mistake("schedule remove takn", 2, "'takn'", "Did you mean taken?"),
    mistake("schedule remove", 2, "NAME"),
    mistake("schedule next takn", 2, "'takn'", "Did you mean taken?"),
    mistake("schedule next --count 0", 2, "--count"),
    mistake("schedule list --database nowhere", 2, "nowhere"),
]
