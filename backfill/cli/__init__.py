"""The command line: commands parse, call the engine, and print.

1. `backfill --help` loads no driver, no broker and no terminal library: modules of commands import
   click and errors at their top, and everything else inside their functions.
2. Errors become exit codes in one place, boundary.py; no command prints a traceback.
3. What is meant for a program goes to standard output, warnings and hints go to standard error.
4. Every command that a message names exists.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line on this process's arguments, and exit."""
    from backfill.cli.root import cli
    from backfill.streams import open_closed

    open_closed()
    for stream in (sys.stdout, sys.stderr):
        # a terminal without "…" shows a question mark, rather than ending us in the middle
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    cli(prog_name="backfill")
