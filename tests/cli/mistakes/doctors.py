"""What `doctor` must find: each with its area and name, and words of the message or the remedy."""

from __future__ import annotations

from tests.cli.mistakes import PASSWORD, Mistake, Place, mistake, with_files
from tests.cli.mistakes.surroundings import (
    AWAY,
    BROKEN,
    NO_DATABASE,
    OF_A_JOB,
    SPOILED,
    TWO,
    UPDATES_AGE,
)

DATABASE = "database default"
LEDGER = f"{DATABASE}/ledger"

FOUND: list[Mistake] = [
    mistake("--project nowhere doctor", 1, "project/settings", "nowhere", "`backfill init`"),
    mistake(
        "doctor", 1, "project/settings", "nowhere", "`backfill init`", BACKFILL_PROJECT="nowhere"
    ),
    mistake("doctor", 1, "project/settings", "no valid TOML", settings="jobs = ["),
    mistake("doctor", 1, "project/settings", "job is no setting", settings="job = []"),
    mistake("doctor", 1, "imports/jobs", "wares:no", settings='jobs = []\nsetup = "wares:no"'),
    mistake("doctor", 1, "imports/broken", "no_such_module", settings='jobs = ["no_such_module"]'),
    *(
        with_files(
            mistake("doctor", 1, "imports/broken", told, settings=BROKEN), spoiled=text
        )
        for text, told in SPOILED
    ),
    with_files(
        mistake("doctor", 1, "imports/jobs", "two jobs", settings='jobs = ["wares", "spoiled"]'),
        spoiled=OF_A_JOB.replace(" A(", " CountVisits(") + "    target = Delete()\n",
    ),
    with_files(
        mistake("doctor", 1, "imports/job-database", "mian", "main", settings=TWO.replace(
            "shop", "main").replace("wares", "spoiled"), STORE_URL=Place.QUIET),
        spoiled=UPDATES_AGE.replace("Update('age')", "Delete()")
        + "    options = Options(database='mian')\n",
    ),
    mistake("doctor", 1, "imports/celery-app", "no:app", settings='celery_app = "no:app"'),
    mistake(
        "doctor --strict", 1, "project/channel", "HOOK is not set",
        settings='[notify.ops]\nwebhook_url_env = "HOOK"',
    ),
    # databases
    mistake("doctor", 1, f"{DATABASE}/unreachable", "BACKFILL_DATABASE_URL", ".env", **NO_DATABASE),
    mistake("doctor", 1, f"{DATABASE}/unreachable", "127.0.0.1:1/shop", "server runs", **AWAY),
    *(
        mistake("doctor", 1, f"{DATABASE}/unreachable", told, BACKFILL_DATABASE_URL=url)
        for url, told in [
            (f"mysql://ada:{PASSWORD}@h/shop", "postgresql://"),
            (f"postgresql://ada:{PASSWORD}@h:port/shop", "port"),
            (f"postgresql://ada:{PASSWORD}@no-such-host.invalid/shop", "no-such-host"),
            ("postgresql:///shop?host=/nowhere", "/nowhere"),
            (Place.WRONG_ROLE, "user and password"),
        ]
    ),
    mistake("doctor", 1, "database store/unreachable", "STORE_URL", settings=TWO),
    mistake("doctor", 1, LEDGER, "not installed", "db upgrade", BACKFILL_DATABASE_URL=Place.BARE),
    mistake("doctor", 1, LEDGER, "version", "db upgrade", BACKFILL_DATABASE_URL=Place.OLDER),
    mistake("doctor", 1, LEDGER, "newer", "Upgrade the pack", BACKFILL_DATABASE_URL=Place.NEWER),
    mistake("doctor", 1, LEDGER, "identity", "backup", BACKFILL_DATABASE_URL=Place.LOST),
    mistake("doctor", 1, LEDGER, "may not use", "db grants", BACKFILL_DATABASE_URL=Place.POOR),
    # Redis
    mistake("doctor --strict", 1, "redis/not-named", "BACKFILL_REDIS_URL", BACKFILL_REDIS_URL=""),
    *(
        mistake("doctor", 1, "redis/unreachable", told, "BACKFILL_REDIS_URL",
                BACKFILL_REDIS_URL=url)
        for url, told in [
            (f"http://:{PASSWORD}@h", "redis://"),
            (f"redis://:{PASSWORD}@h:port/0", "port"),
            (f"redis://:{PASSWORD}@h/zero", "number"),
            (f"redis://:{PASSWORD}@h/0?nonsense=1", "parameter nonsense"),
            (f"redis://:{PASSWORD}@127.0.0.1:1/0", "does not answer"),
            (f"redis://:{PASSWORD}@no-such-host.invalid/0", "does not answer"),
            (Place.WRONG_REDIS, "refuses the login"),
        ]
    ),
]  # fmt: skip
