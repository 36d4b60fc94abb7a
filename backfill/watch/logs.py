"""The log: one line per event on standard error, for people on a terminal or as JSON for machines.

1. What the standard library's loggers are told (Celery's among them) comes out in the same form as
   our own events: `event`, `level`, `timestamp` and `logger`.
2. Of an exception a line has the type, and at level debug where it arose. Its message may quote a
   row, so only our own errors' messages are shown.
3. A password in a URL is masked, whoever wrote it.
4. A line is written by one system call and no lock of ours: a child that was forked while a thread
   of its parent wrote a line would wait for that lock for ever.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from backfill.errors import BackfillError
from backfill.streams import is_terminal
from backfill.watch.repeats import Repeats

#: user:password@ in a URL; up to the last "@" of the word, which a careless password may hold.
_PASSWORD = re.compile(r"(?<=://)([^\s:/@]*):\S*@")


def configure(
    format: Literal["auto", "console", "json"] = "auto",  # noqa: A002 - the setting's name
    level: str = "info",
) -> None:
    """Send our events to standard error.

    Args:
        format: `auto` means `console` on a terminal and `json` elsewhere.
        level: debug, info, warning or error.
    """
    is_console = format == "console" or (format == "auto" and is_terminal(sys.stderr))
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(
            colors=is_terminal(sys.stderr), exception_formatter=structlog.dev.plain_traceback
        )
        if is_console
        else structlog.processors.JSONRenderer()
    )
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _with_traceback if threshold <= logging.DEBUG else _without_traceback,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=_Lines,
        cache_logger_on_first_use=False,
    )


def hand_on() -> None:
    """Hand our events to the standard library's logger `backfill`.

    For processes that are somebody else's: who has set logging up there decides what is shown, and
    in which form. A record's text has all of an event; its fields are `record.backfill`, too.
    """
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            _without_traceback,
            _as_record,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _as_record(_: WrappedLogger, method: str, event: EventDict) -> tuple[tuple[str], EventDict]:
    """The arguments for the standard library's logger."""
    del method
    name = str(event.pop("event"))
    text = " ".join([name, *(f"{key}={value!r}" for key, value in event.items())])
    return (text,), {"extra": {"backfill": {"event": name, **event}}}


def take_over(logger: logging.Logger, level: int, *, calm: Sequence[str] = ()) -> None:
    """Let a logger of the standard library write lines like ours, in place of what it did.

    Args:
        logger: the root, or one that does not hand its records up to it.
        level: of `logging`.
        calm: libraries whose repeated warnings and errors are left out (repeats.py).
    """
    *before, renderer = structlog.get_config()["processors"]
    handler = _Handler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*before, _cleaned],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    if calm:
        handler.addFilter(Repeats(calm))
    logger.handlers[:] = [handler]
    logger.setLevel(level)


def _without_traceback(_: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """The exception's type, and an error of ours in full."""
    del method
    _pop_exception(event)
    return event


def _with_traceback(_: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Where it arose, too, without the values and messages of a whole traceback."""
    del method
    error = _pop_exception(event)
    if error is not None:
        event["exception"] = "".join(traceback.format_tb(error.__traceback__)).rstrip()
    return event


def _pop_exception(event: EventDict) -> BaseException | None:
    """Take the exception out of an event and put its name in."""
    given = event.pop("exc_info", None)
    if given is True:
        given = sys.exc_info()
    error = given[1] if isinstance(given, tuple) else given
    if not isinstance(error, BaseException):
        return None
    told = f": {error.message}" if isinstance(error, BackfillError) else ""
    event["error"] = f"{type(error).__name__}{told}"
    return error


def _cleaned(_: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """No password, and no empty line at the end: some of Celery's texts have one."""
    del method
    event["event"] = _PASSWORD.sub(r"\1:**@", str(event["event"])).rstrip()
    return event


class _Lines:
    """What structlog hands its lines to."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def msg(self, line: str) -> None:
        """Write a line."""
        _write(line)

    debug = info = warn = warning = error = err = critical = fatal = failure = exception = log = msg


class _Handler(logging.Handler):
    """What the standard library's loggers hand their records to."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            line = self.format(record)
        except Exception as error:  # noqa: BLE001 - a record that does not fit its own format
            structlog.get_logger(record.name).error(str(record.msg), error=type(error).__name__)
        else:
            _write(line)


def _write(line: str) -> None:
    """Write a line; one that cannot be written is no reason to stop working."""
    stream = sys.stderr
    if stream is None:
        return
    is_own = stream is sys.__stderr__
    if not is_own:
        # somebody put it there to see the text: a live display, a test
        stream.write(f"{line}\n")
        stream.flush()
        return
    left = f"{line}\n".encode(errors="backslashreplace")
    with suppress(OSError, ValueError):
        while left:
            left = left[os.write(stream.fileno(), left) :]
