"""Configures structlog: one line per event, for people on a terminal or as JSON for machines."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog


def configure(
    format: Literal["auto", "console", "json"] = "auto",  # noqa: A002 - the setting's name
    level: str = "info",
) -> None:
    """Send our events to standard error.

    Args:
        format: `auto` means `console` on a terminal and `json` elsewhere.
        level: debug, info, warning or error.
    """
    is_console = format == "console" or (format == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if is_console
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        # looked up for every line, so that a stream replaced after a fork or in a test is used
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
