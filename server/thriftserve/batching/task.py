"""What one request wants of a session, and what it gets.

handler: arrays of a request --> Task --> a run of its own, or one shared with others --> TaskResult
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from thriftserve.deadline import Deadline
from thriftserve.errors import ResourceExhausted
from thriftserve.models.registry import Servable
from thriftserve.models.session import Array, Signature


class Task:
    """One request's part in a run.

    Attributes:
        servable: what runs it.
        signature: the function that it calls.
        arrays: one array for each input of the signature, checked.
        wanted: the outputs by name, none of them twice; empty: whatever the model gives.
        deadline: after it, the task is not run.
        rows: the size of the arrays' leading dimension, 1 if they have none. 0: it is neither merged, split nor padded.
    """

    __slots__ = ("arrays", "deadline", "rows", "servable", "signature", "wanted")

    def __init__(
        self,
        servable: Servable,
        signature: Signature,
        arrays: dict[str, Array],
        wanted: tuple[str, ...],
        deadline: Deadline,
        rows: int,
    ) -> None:
        self.servable = servable
        self.signature = signature
        self.arrays = arrays
        self.wanted = wanted
        self.deadline = deadline
        self.rows = rows

    def with_arrays(self, arrays: dict[str, Array]) -> Task:
        """Return the same task on other arrays of as many rows."""
        return Task(self.servable, self.signature, arrays, self.wanted, self.deadline, self.rows)


class TaskResult(NamedTuple):
    """A task's result."""

    #: By name; views of the run's outputs if other tasks shared it.
    outputs: dict[str, Array]
    #: When its run began, monotonic seconds.
    began: float
    #: Microseconds in the session.
    compute_us: int
    #: Rows of the run, those of other tasks included, padding not.
    batch_size: int


#: What becomes of a task: a result, or the error that its request is answered with.
TaskOutcome = TaskResult | Exception


class QueueLimit:
    """Counts the requests that wait for one model in this process. Any thread may call it."""

    def __init__(self, model: str, limit: int) -> None:
        self.limit = limit
        self._model = model
        self._count = 0
        self._lock = threading.Lock()

    def add(self) -> None:
        """Count one more.

        Raises:
            ResourceExhausted: as many wait as may.
        """
        with self._lock:
            if self._count >= self.limit:
                raise ResourceExhausted(
                    f"{self._count} requests wait for model {self._model!r}, and max_enqueued of its model.toml is "
                    f"{self.limit}: try again later, or on another server"
                )
            self._count += 1

    def remove(self, count: int = 1) -> None:
        """Count fewer."""
        with self._lock:
            self._count -= count
