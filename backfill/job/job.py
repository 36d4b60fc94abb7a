"""The class that a user declares a backfill with.

    class LowerEmail(Job):
        source = Table("users", todo="email_lower IS NULL")
        transform = Sql(email_lower="lower(email)")
        target = Update()

The shape is checked when the class is made (`shape.py`), so that a mistake shows where it stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from backfill.errors import UsageError
from backfill.job import shape
from backfill.job.options import Options
from backfill.job.source import Source
from backfill.job.target import Target
from backfill.model import BatchInfo, RunInfo

if TYPE_CHECKING:
    import psycopg


class Job:
    """A backfill: where the rows come from, what becomes of them, where they go.

    Exactly one transform is declared, where the target needs one:

        transform = Sql(...)                    PostgreSQL computes it
        def transform(self, row)                -> Mapping | None | Iterator[Mapping]
        def transform_batch(self, rows)         -> Sequence of the same, aligned with the rows

    Neither is declared here, so that a user's own types hold. None leaves a row as it is; several
    mappings for one row are for Insert only; Delete takes any answer and asks whether it is true.

    Attributes:
        name: the job's permanent identity; by default the class's name in snake_case.
        version: ≥ 1; raise it when a changed transform must not mix with a run that has begun.
        source: the rows.
        target: what is done with them.
        options: how a run works; each can be overridden for one run.
        retry_on: exceptions of a transform that mean an outage: the slice waits, no row is blamed.

    A class without source, target and transform is a base for other jobs. One that has some of
    them says so: `class UsersJob(Job, abstract=True)`.

    Raises:
        DeclarationError: when the class is made; names the class, the mistake and the right form.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    source: ClassVar[Source]
    target: ClassVar[Target]
    options: ClassVar[Options] = Options()
    retry_on: ClassVar[tuple[type[Exception], ...]] = ()

    def __init_subclass__(cls, *, abstract: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        shape.check(cls, Job, abstract=abstract)

    @property
    def run(self) -> RunInfo:
        """The run that this job works for: id, parameters, database; no secret.

        Raises:
            UsageError: the job was made by hand and works for no run.
        """
        run: RunInfo | None = self.__dict__.get("_run")
        if run is None:
            raise UsageError(
                f"{type(self).__name__}: self.run is there only while a run works",
                remedy=f"Give it one with bind({type(self).__name__}, {{...}}, run=RunInfo(...)).",
            )
        return run

    # The hooks: each does nothing here, and none is called inside a transaction of the target.

    def setup(self, conn: psycopg.Connection[Any]) -> None:
        """Read look-ups; once per process and run, on a read-only connection."""

    def teardown(self) -> None:
        """Let go of what `setup` took; when the process leaves the run."""

    def before_run(self, run: RunInfo) -> None:
        """Before the first slice; at least once."""

    def after_batch(self, batch: BatchInfo) -> None:
        """After a batch's commit; possibly missed when a worker is killed."""

    def after_run(self, run: RunInfo) -> None:
        """After the run's end; at least once."""
