"""Runs a job's Python over the rows of a page: no database, no sleep.

An exception is charged to its row alone. A page is given a bounded time, because its rows are
locked meanwhile (I5): what is transformed by then is written, the rest comes with the next page.
A value once computed is used again when the batch has to be repeated and the row is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backfill.clock import Clock
from backfill.engine.faults import OutageError, RowsRefusedError, StopError
from backfill.errors import Quarantine, RetryLater
from backfill.job import Call, Delete, Insert, Job, Row
from backfill.job.declaration import Declaration
from backfill.model import Key


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a row goes into quarantine; `message` may quote the row."""

    message: str
    sqlstate: str | None = None


#: What became of a row: what to write (for Delete and Call: an empty mapping), None (leave it), or
#: why not.
Outcome = Sequence[Mapping[str, Any]] | None | Refusal


#: The call is done, whatever it answered.
_CALLED: Outcome = [{}]


@dataclass(slots=True)
class Memory:
    """Values computed in a batch that did not commit, for the batches that repeat its rows."""

    _known: dict[Key, tuple[Row, Outcome]] = field(default_factory=dict)

    def recall(self, key: Key, row: Row) -> tuple[bool, Outcome]:
        """(True, the outcome) when this very row has been transformed before."""
        found = self._known.get(key)
        return (True, found[1]) if found is not None and found[0] == row else (False, None)

    def keep(self, keys: Sequence[Key], rows: Sequence[Row], outcomes: Sequence[Outcome]) -> None:
        self._known.update(zip(keys, zip(rows, outcomes, strict=False), strict=False))

    @property
    def is_empty(self) -> bool:
        return not self._known

    def forget(self) -> None:
        self._known.clear()


class PythonTransform:
    """A job's `transform` or `transform_batch`, bound to a job and its declaration."""

    def __init__(self, declaration: Declaration, job: Job, *, clock: Clock) -> None:
        self._declaration, self._job = declaration, job
        self._target = declaration.target
        self._outages: tuple[type[Exception], ...] = (RetryLater, *declaration.retry_on)
        self._name = declaration.job_class.__name__
        self._clock = clock
        self._is_batch = declaration.kind == "batch"
        self._function: Callable[[Any], Any] = (
            job.transform_batch if self._is_batch else job.transform  # type: ignore[attr-defined]  # not on the base, so that users' own types hold
        )

    def __call__(
        self,
        keys: Sequence[Key],
        rows: Sequence[Row],
        memory: Memory,
        *,
        deadline: float,
        should_stop: Callable[[], bool] | None = None,
    ) -> list[Outcome]:
        """Transform rows in order.

        Args:
            keys, rows: aligned, ascending by key.
            deadline: on the monotonic clock; after it no further row is begun.
            should_stop: asked before each row but the first: begin no further row.

        Returns:
            Outcomes for the first rows; at least one when there is a row.

        Raises:
            OutageError: before the first row was done; otherwise the rows done are returned.
            RowsRefusedError: `transform_batch` raised for two rows or more.
            StopError: the job returns what it must not.
        """
        if self._is_batch:
            return self._by_batch(keys, rows, memory)
        outcomes: list[Outcome] = []
        monotonic, function, repeats = self._clock.monotonic, self._function, not memory.is_empty
        is_usual = not isinstance(self._target, Delete | Call)
        outcome: Outcome
        for key, row in zip(keys, rows, strict=True):
            known, outcome = memory.recall(key, row) if repeats else (False, None)
            if not known:
                if outcomes and (monotonic() > deadline or (should_stop and should_stop())):
                    break
                try:
                    result = function(row)
                    # most transforms return a dict, and this loop is a hot path
                    usual = type(result) is dict and is_usual
                    outcome = [result] if usual else self._checked(result)
                except self._outages as error:
                    if outcomes:
                        break  # the rows before it are written; it comes first on the next page
                    raise self._outage(error) from error
                except StopError:
                    raise
                except Exception as error:  # noqa: BLE001 - whatever the user's code raises is this row's
                    outcome = self._refusal(error)
            outcomes.append(outcome)
        return outcomes

    def _by_batch(self, keys: Sequence[Key], rows: Sequence[Row], memory: Memory) -> list[Outcome]:
        recalled = [memory.recall(key, row) for key, row in zip(keys, rows, strict=True)]
        unknown = [row for row, (known, _) in zip(rows, recalled, strict=True) if not known]
        computed = iter(self._call_batch(unknown) if unknown else ())
        return [outcome if known else next(computed) for known, outcome in recalled]

    def _call_batch(self, rows: Sequence[Row]) -> list[Outcome]:
        try:
            return self._aligned(self._function(list(rows)), rows)
        except self._outages as error:
            raise self._outage(error) from error
        except StopError:
            raise
        except Exception as error:
            if len(rows) > 1:
                raise RowsRefusedError(len(rows), type(error).__name__) from error
            return [self._refusal(error)]

    def _aligned(self, results: Any, rows: Sequence[Row]) -> list[Outcome]:
        """What `transform_batch` returned; a result may be a generator, whose code runs here."""
        if isinstance(self._target, Call):
            return [_CALLED] * len(rows)
        if isinstance(results, str | bytes | Mapping) or not isinstance(results, Sequence):
            raise StopError(
                f"{self._name}.transform_batch returned {type(results).__name__}; it must return a"
                " sequence with one result for each row",
                summary="transform_batch returned no sequence",
            )
        if len(results) != len(rows):
            raise StopError(
                f"{self._name}.transform_batch returned {len(results)} results for {len(rows)}"
                " rows; they must be aligned (None leaves a row as it is)",
                summary="transform_batch returned another number of results",
            )
        return [self._checked(result) for result in results]

    def _checked(self, result: Any) -> Outcome:
        if isinstance(self._target, Call):
            return _CALLED
        if isinstance(self._target, Delete):
            return [{}] if result else None
        if result is None:
            return None
        if isinstance(result, Mapping):
            return [result]
        if isinstance(self._target, Insert) and isinstance(result, Iterator | list | tuple):
            several = list(result)
            if all(isinstance(one, Mapping) for one in several):
                return several or None
        raise StopError(
            f"{self._name}: the transform returned {type(result).__name__}; it must return a"
            " mapping from column to value, or None to leave the row as it is",
            summary="the transform returned no mapping",
        )

    def _outage(self, error: Exception) -> OutageError:
        if isinstance(error, RetryLater):
            return OutageError(self._hidden(error.reason) or "RetryLater", seconds=error.seconds)
        return OutageError(type(error).__name__, seconds=None)

    def _refusal(self, error: Exception) -> Refusal:
        if isinstance(error, Quarantine):
            return Refusal(self._hidden(error.reason))
        return Refusal(self._hidden(f"{type(error).__name__}: {error}"))

    def _hidden(self, text: str) -> str:
        """Without secrets, which an HTTP client's error quotes with the URL that it asked."""
        arguments = self._declaration.sql_arguments(self._job)
        return self._declaration.secrets(arguments).hidden(text)
