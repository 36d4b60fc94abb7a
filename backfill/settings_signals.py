"""The signals that a settings file asks for, changes or turns off.

    [databases.main.signals]
    replication_lag_seconds = { stop = 60, resume = 20 }    # other thresholds: it is asked for
    oldest_transaction_seconds = true                       # asked for, with its thresholds
    blocked_seconds = false                                 # off
    queue_depth = { sql = "SELECT …", stop = 1000, resume = 500, unit = "jobs" }
    idle_cpu = { prometheus = "…", worse = "below", stop = 10, resume = 20, unit = "%" }

A signal that is named here, unless by `false`, is required: it stops runs when it cannot be read.
Naming replicas asks for their lag.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, get_args

from backfill.errors import ProjectError
from backfill.settings_file import SettingsTable, suggestion
from backfill.signals import BUILTIN, DEFAULTS, REPLICA_LAG, Kind, SignalSpec, Worse

_EXAMPLE: Final = ", such as { stop = 30, resume = 10 }, or true, or false"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_UNIT = re.compile(r"(?=\S)[^\x00-\x1f\x7f]{0,16}")
OWN_KEYS: Final = ("sql", "prometheus", "stop", "resume", "worse", "unit")


def read_signals(database: SettingsTable) -> Mapping[str, SignalSpec]:
    """The signals of one database: the defaults, and over them what its table `signals` says.

    Args:
        database: the table `[databases.NAME]`; its `replica_url_envs` and `prometheus_url_env` are
            looked at, and checked by whoever reads them.

    Raises:
        ProjectError: naming the file and the key.
    """
    table = database.table("signals")
    signals = dict(DEFAULTS)
    if database.values.get("replica_url_envs"):
        signals[REPLICA_LAG] = replace(BUILTIN[REPLICA_LAG], required=True)
    for name, value in table.values.items():
        if value is False and name in BUILTIN:
            signals.pop(name, None)
            continue
        signals[name] = _builtin(table, name) if name in BUILTIN else _own(table, name)
        if name == REPLICA_LAG and not database.values.get("replica_url_envs"):
            raise ProjectError(
                f"{table.place(name)}: no replicas are named",
                remedy="Name the variables that hold their URLs in replica_url_envs of"
                f" [{database.name}].",
            )
        if signals[name].kind == "prometheus" and "prometheus_url_env" not in database.values:
            raise ProjectError(
                f"{database.place('prometheus_url_env')} is missing",
                remedy=f"The signal {name} asks Prometheus: name the variable that holds its URL.",
            )
    return signals


def _builtin(table: SettingsTable, name: str) -> SignalSpec:
    spec = replace(BUILTIN[name], required=True)
    if table.values[name] is True:
        return spec
    own = table.table(name, example=_EXAMPLE)
    if own.values.keys() & {"sql", "prometheus"}:
        raise ProjectError(
            f"{table.place(name)} is the name of a signal of ours",
            remedy="Give a signal with a query of its own another name.",
        )
    own.refuse_unknown(("stop", "resume"))
    return _with_thresholds(own, spec)


def _own(table: SettingsTable, name: str) -> SignalSpec:
    """A signal with the user's own query."""
    value = table.values[name]
    if isinstance(value, bool) or (
        isinstance(value, dict) and not value.keys() & {"sql", "prometheus"}
    ):
        raise ProjectError(
            f"{table.place(name)} is no signal{suggestion(name, BUILTIN)}",
            remedy=f"The signals: {', '.join(BUILTIN)}. One of your own has sql or prometheus.",
        )
    if _NAME.fullmatch(name) is None:
        raise ProjectError(
            f"{table.place(name)} is no name for a signal",
            remedy="Lower-case letters, digits and _ serve, a letter first, at most 63.",
        )
    own = table.table(name, example=', such as { sql = "SELECT …", stop = 10, resume = 5 }')
    own.refuse_unknown(OWN_KEYS)
    kinds: list[Kind] = [kind for kind in get_args(Kind) if kind in own.values]
    if len(kinds) > 1:
        raise ProjectError(
            f"{table.place(name)} has both sql and prometheus", remedy="Keep one of them."
        )
    query = own.sentence(kinds[0], "a query" if kinds[0] == "sql" else "a PromQL expression")
    spec = SignalSpec(
        name=name,
        unit=own.text("unit", _UNIT, 'a short unit, such as "s" or "jobs"') or "",
        stop=0,
        resume=0,
        worse=own.choice("worse", get_args(Worse), "above"),
        required=True,
        kind=kinds[0],
        query=query or "",
    )
    return _with_thresholds(own, spec)


def _with_thresholds(table: SettingsTable, spec: SignalSpec) -> SignalSpec:
    stop, resume = table.number("stop"), table.number("resume")
    if stop != resume and (stop > resume) != (spec.worse == "above"):
        side = "below" if spec.worse == "above" else "above"
        raise ProjectError(
            f"{table.place('resume')} is on the wrong side of stop",
            remedy=f"A signal that is worse {spec.worse} a value resumes {side} its stop.",
        )
    if spec.worse == "above" and (resume == 0 or (resume < 0 and spec.kind == "builtin")):
        raise ProjectError(
            f"{table.place('resume')} is {resume:g}: the run would never go on",
            remedy="It goes on when the value is below resume, and hardly anything is below 0."
            " For a count write resume = 1.",
        )
    return replace(spec, stop=stop, resume=resume)
