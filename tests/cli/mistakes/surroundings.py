"""Wrong surroundings: settings, job modules, variables, databases, ledgers, Redis."""

from __future__ import annotations

from dataclasses import replace

from tests.cli.mistakes import PASSWORD, SETTINGS, Mistake, Place, mistake, with_files

NO_DATABASE = {"BACKFILL_DATABASE_URL": ""}
NO_REDIS = {"BACKFILL_REDIS_URL": ""}
AWAY = {"BACKFILL_DATABASE_URL": f"postgresql://ada:{PASSWORD}@127.0.0.1:1/shop"}
#: Commands that need a database, and cannot do harm if they get one after all.
READING = [
    "status",
    "watch",
    "events",
    "report",
    "quarantine list",
    "schedule list",
    "schedule next",
]
WRITING = [
    *("run lower_email", "enqueue lower_email", "pause", "resume", "cancel", "retry"),
    *("tune --rate 5/s", "quarantine retry", "quarantine accept", "schedule remove taken"),
    *("schedule add n lower_email --at 2099-01-01T00:00Z", "stop-all", "start-all"),
]
CONFIRM = """jobs = ["wares"]
[databases.shop]
url_env = "BACKFILL_DATABASE_URL"
confirm = true
"""
CONFIRMED = [
    *("run lower_email", "enqueue lower_email", "stop-all", "start-all", "db upgrade"),
    *("pause count_visits", "resume judge_age", "cancel judge_age", "retry lower_email"),
    *("tune count_visits --rate 5/s", "quarantine retry judge_age", "quarantine accept judge_age"),
    *("schedule remove taken", "schedule add n lower_email --at 2099-01-01T00:00Z"),
]
TWO = """jobs = ["wares"]
[databases.shop]
url_env = "BACKFILL_DATABASE_URL"
[databases.store]
url_env = "STORE_URL"
"""


BROKEN = 'jobs = ["spoiled"]\n'
OF_A_JOB = "from backfill import *\nclass A(Job):\n    source = Table('users')\n"
UPDATES_AGE = OF_A_JOB + "    target = Update('age')\n"
#: What a module of jobs holds, and what is told of it.
SPOILED = [
    ("def (:\n", "SyntaxError"),
    ("import lost_module\n", "ModuleNotFoundError"),
    ("raise SystemExit(0)\n", "SystemExit"),
    ("raise ValueError('\\x1b[2J' + 'x' * 100000)\n", "ValueError"),
    ("\0", "SyntaxError"),
    (OF_A_JOB, "target"),
    (UPDATES_AGE, "transform"),
    (UPDATES_AGE + "    options = Options(rat='5/s')\n", "no argument rat. Did you mean rate?"),
    (UPDATES_AGE + "    since = Param(int, defualt=1)\n", "Did you mean default?"),
    (UPDATES_AGE + "    options = Options(rate='fast')\n", 'rate "fast"'),
    (UPDATES_AGE.replace("'users'", "'a.b.c.d'"), "a.b.c.d"),
    (UPDATES_AGE.replace("'users'", "'users; DROP TABLE users'"), "users; DROP TABLE users"),
    (UPDATES_AGE.replace("'users'", "'users', todo='a IS NULL;'"), "semicolon"),
]

PROJECTS: list[Mistake] = [
    mistake("--project nowhere list", 3, "nowhere", "`backfill init`"),
    mistake("--project wares list", 3, "wares", "`backfill init`"),
    mistake("list", 3, "nowhere", "`backfill init`", BACKFILL_PROJECT="nowhere"),
    mistake("list", 3, "backfill.toml is no valid TOML", settings="jobs = ["),
    mistake("list", 3, "backfill.toml: job is no setting", settings="job = []"),
    mistake("run a", 3, "no_such_module", settings='jobs = ["no_such_module"]'),
    *(
        mistake(
            words, 3, "wares:nothing", "no attribute", settings=f'{SETTINGS}setup = "wares:nothing"'
        )
        for words in ("list", "run lower_email")
    ),
    mistake("run lower_email", 3, "away:boot", settings=f'{SETTINGS}setup = "away:boot"'),
    with_files(
        mistake(
            "run lower_email", 3, "boot:up", "no licence", settings=f'{SETTINGS}setup = "boot:up"'
        ),
        boot="def up():\n    raise RuntimeError('no licence')\n",
    ),
    with_files(
        mistake("run a", 3, "json: it comes from", "rename", settings='jobs = ["json"]'), json=""
    ),
    mistake("run a", 2, "the project has no jobs", "`backfill new NAME`", settings="jobs = []"),
    *(
        with_files(
            mistake(
                "run a",
                3,
                "no job a",
                f"spoiled: {told}" if told.endswith("Error") else told,
                settings=BROKEN,
            ),
            spoiled=text,
        )
        for text, told in SPOILED
    ),
    with_files(
        mistake(
            "run count_visits", 3, "two jobs", "permanent", settings='jobs = ["wares", "spoiled"]'
        ),
        spoiled=OF_A_JOB.replace(" A(", " CountVisits(")
        + "    transform = Sql(visits='1')\n    target = Update()\n",
    ),
    mistake("new lower_email", 5, "lower_email already", "Choose another name"),
    *(
        replace(
            mistake(words, 3, ".env: line 2 cannot be read", "NAME=value"),
            files={".env": f"A=1\nB='{PASSWORD}\n"},
        )
        for words in ("list", "status", "worker")
    ),
]

VARIABLES: list[Mistake] = [
    *(
        mistake(name, 3, "BACKFILL_DATABASE_URL", ".env", **NO_DATABASE)
        for name in [
            "run lower_email",
            "status",
            "db upgrade",
            "check lower_email",
            "worker",
            "flower",
            "stop-all",
        ]
    ),
    mistake(
        "status",
        3,
        "BACKFILL_DATABASE_URL",
        "postgresql://",
        BACKFILL_DATABASE_URL=f"mysql://ada:{PASSWORD}@h/shop",
    ),
    mistake("status", 3, "BACKFILL_DATABASE_URL", "postgresql://", BACKFILL_DATABASE_URL=PASSWORD),
    *(
        mistake(
            "status",
            3,
            "BACKFILL_DATABASE_URL",
            "port",
            "%2F",
            BACKFILL_DATABASE_URL=f"postgresql://ada:{PASSWORD}{rest}",
        )
        for rest in ("@h:port/shop", "@h:99999/shop", "/@h/shop", "@h:1,i:0/shop")
    ),
    *(
        mistake("status", 3, "BACKFILL_DATABASE_URL", told, BACKFILL_DATABASE_URL=url)
        for url, told in [
            (f"postgresql://ada:top@{PASSWORD}/x@127.0.0.1:1/shop", "@ as %40"),
            (f"postgresql://ada:top@{PASSWORD}@127.0.0.1:1/shop", "@ as %40"),
            (f"postgresql://ada:{PASSWORD}%@127.0.0.1:1/shop", "% as %25"),
            (f"postgresql://ada:{PASSWORD}@127.0.0.1:1/%ff", "% as %25"),
            (f"postgresql://ada:{PASSWORD}@[::1/shop", "has both of them"),
        ]
    ),
    mistake(
        "status",
        4,
        "not quoted",
        "@ as %40",
        BACKFILL_DATABASE_URL=f"postgresql://ada:12/x?{PASSWORD}@127.0.0.1:1/shop",
    ),
    mistake(
        "status",
        4,
        '"nonsense"',
        BACKFILL_DATABASE_URL=f"postgresql://ada:{PASSWORD}@127.0.0.1:1/shop?nonsense=1",
    ),
    mistake(
        "status",
        4,
        '"perhaps"',
        BACKFILL_DATABASE_URL=f"postgresql://ada:{PASSWORD}@127.0.0.1:1/shop?sslmode=perhaps",
    ),
    mistake(
        "status",
        4,
        "no-such-host",
        BACKFILL_DATABASE_URL=f"postgresql://ada:{PASSWORD}@no-such-host.invalid/shop",
    ),
    mistake("status", 4, "/nowhere", BACKFILL_DATABASE_URL="postgresql:///shop?host=/nowhere"),
    mistake("status", 3, "STORE_URL", "[databases.store]", settings=TWO),
    *(
        mistake(name, 3, "BACKFILL_REDIS_URL", **NO_REDIS)
        for name in ["enqueue lower_email", "worker", "flower"]
    ),
    *(
        mistake(
            name, 3, "BACKFILL_REDIS_URL", "redis://", BACKFILL_REDIS_URL=f"http://:{PASSWORD}@h"
        )
        for name in ["enqueue lower_email", "worker", "flower"]
    ),
    *(
        mistake(
            name, 3, "BACKFILL_REDIS_URL", told, BACKFILL_REDIS_URL=f"redis://:{PASSWORD}@{rest}"
        )
        for name in ("enqueue lower_email", "worker", "flower")
        for rest, told in (("h:port/0", "port"), ("h/zero", "database is a number"))
    ),
]

VARIABLES += [
    mistake(
        name, 3, "BACKFILL_REDIS_URL", *told, BACKFILL_REDIS_URL=f"redis://:{PASSWORD}@h/0?{query}"
    )
    for name in ("enqueue lower_email", "worker", "flower", "status")
    for query, told in (
        ("nonsense=1", ("parameter nonsense", "Take it out")),
        ("socket_timeout=abc", ("parameter socket_timeout", "seconds above 0")),
    )
]

VARIABLES += [
    with_files(
        mistake(
            name,
            3,
            "broker cannot be used: KeyError: No such transport: unix",
            "redis+socket:///run/redis.sock",
            settings=f'{SETTINGS}celery_app = "shop_app:app"\n',
        ),
        shop_app="from celery import Celery\napp = Celery('shop', broker='unix:///r.sock')\n",
    )
    for name in ("enqueue lower_email", "worker")
]

SERVICES: list[Mistake] = [
    *(
        mistake(name, 4, "127.0.0.1:1/shop", "Check that the server runs", **AWAY)
        for name in [*READING, *WRITING, "db upgrade", "check lower_email", "dry-run lower_email"]
    ),
    *(
        mistake(name, 5, "not installed", "`backfill db upgrade`", BACKFILL_DATABASE_URL=Place.BARE)
        for name in [*READING, *WRITING]
    ),
    *(
        mistake(name, 5, "version", "backfill db upgrade", BACKFILL_DATABASE_URL=Place.OLDER)
        for name in ["status", "run lower_email", "stop-all"]
    ),
    *(
        mistake(name, 5, "newer", "Upgrade the package", BACKFILL_DATABASE_URL=Place.NEWER)
        for name in ["status", "run lower_email", "db upgrade", "stop-all"]
    ),
    *(
        mistake(name, 5, "identity", "backup", BACKFILL_DATABASE_URL=Place.LOST)
        for name in ["status", "run lower_email", "db upgrade"]
    ),
    *(
        mistake(name, 4, "nobody_here", "user and password", BACKFILL_DATABASE_URL=Place.WRONG_ROLE)
        for name in ["status", "run lower_email"]
    ),
    *(
        mistake(name, 5, "may not", "backfill db grants", BACKFILL_DATABASE_URL=Place.POOR)
        for name in ["status", "run lower_email", "enqueue lower_email"]
    ),
    mistake("db upgrade", 5, "may not", "backfill db grants", BACKFILL_DATABASE_URL=Place.POOR),
    *(mistake(name, 5, "wants a confirmation", "--yes", settings=CONFIRM) for name in CONFIRMED),
    mistake("run lower_email", 2, "database", settings=TWO, STORE_URL=Place.QUIET),
    mistake(
        "notify test",
        3,
        "ops: ",
        "SLACK is not set",
        ".env",
        settings='[notify.ops]\nwebhook_url_env = "SLACK"\n',
    ),
    mistake(
        "notify test",
        3,
        "ops: the command no-such-program cannot be started",
        settings='[notify.ops]\ncommand = ["no-such-program"]\n',
    ),
    mistake(
        "notify test opps", 2, 'did you mean "ops"?', settings='[notify.ops]\ncommand = ["true"]\n'
    ),
    mistake(
        "notify test",
        4,
        "Connection refused",
        settings='[notify.ops]\nwebhook_url_env = "SLACK"\n',
        SLACK=f"http://127.0.0.1:1/{PASSWORD}",
    ),
]
