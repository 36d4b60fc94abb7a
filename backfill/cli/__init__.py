"""The command line: commands parse, call the engine, and print.

1. `backfill --help` loads no driver, no broker and no terminal library: modules of commands import
   click and errors at their top, and everything else inside their functions.
2. Errors become exit codes in one place, boundary.py; no command prints a traceback.
3. What is meant for a program goes to standard output, warnings and hints go to standard error.
4. Every command that a message names exists.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line on this process's arguments, and exit."""
    from backfill.cli.root import cli
    from backfill.streams import make_writable, mind_no_output, open_closed

    open_closed()
    # a terminal without "…" shows a question mark, rather than ending us in the middle
    make_writable(errors="replace")
    try:
        cli(prog_name="backfill")
    finally:
        # what is left in the buffer is tried once more, and would change the exit code
        mind_no_output()
