"""`python -m benchmarks [startup|speed|profile|resume|memory|rate|gentle|eta|watching …] …`."""

from __future__ import annotations

import argparse
import os

from backfill.watch.logs import configure
from benchmarks import eta, gentle, memory, profile, rate, resume, speed, startup, watching
from benchmarks.bed import bed

ALL = ("startup", "speed", "profile", "resume", "memory", "rate", "gentle", "eta", "watching")
#: These start no servers, or their own.
WITHOUT_BED = {"startup", "rate"}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    made.add_argument("which", nargs="*", choices=[*ALL, []], default=list(ALL))
    made.add_argument("--rows", type=int, default=1_000_000)
    made.add_argument("--few", type=int, default=50_000, help="rows for the slow ways")
    made.add_argument("--rounds", type=int, default=3, help="of speed, and of full speed alone")
    of_rate = made.add_argument_group("rate")
    of_rate.add_argument("--limit", type=int, default=8_000, help="rows per second")
    of_rate.add_argument("--lasting", type=float, default=20.0, help="seconds of the run")
    of_gentle = made.add_argument_group("gentle")
    of_gentle.add_argument("--gentle-rows", type=int, default=600_000, help="rows of its table")
    of_gentle.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    of_gentle.add_argument(
        "--arriving", type=int, default=1_500, help="transactions per second of the application"
    )
    of_gentle.add_argument(
        "--slots", type=int, nargs="+", default=[2], help="a run's concurrency along the curve"
    )
    of_gentle.add_argument("--no-curve", action="store_true", help="leave the curve out")
    of_gentle.add_argument(
        "--publish", action="store_true", help="replace tables and picture in docs/gentleness.md"
    )
    of_watching = made.add_argument_group("watching")
    of_watching.add_argument("--watched-rows", type=int, default=4_000_000, help="of its table")
    of_watching.add_argument("--pairs", type=int, default=12, help="of turns, with it and without")
    of_watching.add_argument(
        "--watched-slots", type=int, nargs="+", default=[1, 2], help="the run's concurrency"
    )
    of_eta = made.add_argument_group("eta")
    of_eta.add_argument("--eta-rate", type=int, default=8_000, help="rows per second")
    of_eta.add_argument("--ways", nargs="+", choices=eta.WAYS, default=list(eta.WAYS))
    return made


def main() -> None:
    """Run the benchmarks that are named, all by default."""
    chosen = parser().parse_args()
    configure("console", "error")
    print(f"{os.cpu_count()} cores, {chosen.rows:,} rows")
    if "startup" in chosen.which:
        startup.measure()
    if not set(chosen.which) <= WITHOUT_BED:
        _on_bed(chosen)
    if "rate" in chosen.which:
        rate.measure(rate=chosen.limit, seconds=chosen.lasting)


def _on_bed(chosen: argparse.Namespace) -> None:
    with bed() as made:
        if "speed" in chosen.which:
            speed.measure(made, rows=chosen.rows, few=chosen.few, rounds=chosen.rounds)
        if "profile" in chosen.which:
            profile.measure(made, rows=chosen.rows)
        if "resume" in chosen.which:
            resume.measure(made, rows=chosen.rows)
        if "memory" in chosen.which:
            memory.measure(made, rows=chosen.rows)
        if "gentle" in chosen.which:
            plan = gentle.Plan(
                rows=chosen.gentle_rows,
                rounds=chosen.rounds,
                seconds=chosen.seconds,
                rate=chosen.arriving,
                slots=chosen.slots,
                has_curve=not chosen.no_curve,
                publish=chosen.publish,
            )
            gentle.measure(made, plan)
        if "watching" in chosen.which:
            watching.measure(
                made, rows=chosen.watched_rows, pairs=chosen.pairs, slots=chosen.watched_slots
            )
        if "eta" in chosen.which:
            eta.measure(made, rate=chosen.eta_rate, ways=chosen.ways)


if __name__ == "__main__":
    main()
