"""What may be told of an error: never a secret; a row's value in the quarantine alone."""

from __future__ import annotations

import psycopg

from backfill.job.secret import Secrets
from backfill.pg.failure import Fault, classify


def in_a_reason(fault: Fault, secrets: Secrets) -> str:
    """For events, logs and whoever watches: without a value of a row."""
    if fault.may_quote:
        return f"{fault.summary}; the message may quote a row: PostgreSQL's log has it"
    return secrets.hidden(fault.told)


def raised(error: Exception, secrets: Secrets) -> str:
    """What a job's own code raised: its message is the job's to choose, but PostgreSQL's may quote
    a row that the job has read.
    """
    if isinstance(error, psycopg.Error):
        return in_a_reason(classify(error, writing=False), secrets)
    return f"{type(error).__name__}: {secrets.hidden(str(error))}"


def to_its_owner(fault: Fault, secrets: Secrets) -> str:
    """PostgreSQL's message, which may quote a row: for the quarantine, and for findings about a
    statement that no row was read for.
    """
    if fault.may_quote and secrets.are_bound:
        return f"{fault.summary}; the message may quote a secret parameter, and is left out"
    return secrets.hidden(fault.message)
