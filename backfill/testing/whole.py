"""A run of a test from its beginning to its end, in this process."""

from __future__ import annotations

from collections.abc import Mapping

from backfill.job import Bounds, Job, Options
from backfill.job.declaration import declaration_of
from backfill.project import job_class_of
from backfill.testing.site import Outcome, site, unhurried


def run(
    job: type[Job] | Job,
    url: str,
    /,
    *,
    options: Options | None = None,
    bounds: Bounds | None = None,
    databases: Mapping[str, str] | None = None,
    **params: object,
) -> Outcome:
    """Run a job in this process, to its end, with the real engine.

    What the tables are to hold has to be committed. All of the job's hooks are called.

    Args:
        url: of the database, such as `postgresql://user@host:5432/test`. The job writes there.
        options: in place of the job's own, of which those are left out that would make a test wait
            (rate, window, start and end, duty) or end it at some bad rows (quarantine's budget).
        bounds: which part of the rows it takes; None: all.
        databases: URLs of the databases that the job names, where they are not `url`.
        params: values of the declared parameters.

    Raises:
        NotFinishedError: the run paused or failed, and not for rows in quarantine.
        BackfillError: the job, a parameter or the database cannot serve; see backfill.errors.
    """
    declaration = declaration_of(job_class_of(job))
    chosen = options or unhurried(declaration.options)
    with site(
        declaration, url, options=chosen, bounds=bounds, databases=databases, params=params
    ) as here:
        crew = here.crew(size=chosen.concurrency)
        crew.start()
        try:
            crew.join()
        except BaseException:
            crew.stop()
            crew.join()
            raise
        return here.outcome()
