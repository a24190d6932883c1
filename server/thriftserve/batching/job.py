"""What one request wants of a session, and what it gets.

handler: arrays of a request --> Job --> a run of its own, or one shared with others --> Done
"""

from __future__ import annotations

import threading
from typing import NamedTuple

from thriftserve.deadline import Deadline
from thriftserve.errors import ResourceExhausted
from thriftserve.models.servable import Servable
from thriftserve.models.session import Array
from thriftserve.models.signature import Signature

# How many requests wait for one model in this process, and how many may.


class QueueLimit:
    """A bounded count."""

    def __init__(self, model: str, most: int) -> None:
        self.most = most
        self._model = model
        self._count = 0
        self._lock = threading.Lock()

    def add(self) -> None:
        """Counts one more.

        Raises:
            ResourceExhausted: as many wait as may.
        """
        with self._lock:
            if self._count >= self.most:
                raise ResourceExhausted(
                    f"{self._count} requests wait for model {self._model!r}, and max_enqueued of its model.toml is "
                    f"{self.most}: try again later, or on another server"
                )
            self._count += 1

    def remove(self, count: int = 1) -> None:
        """Counts fewer."""
        with self._lock:
            self._count -= count


class Task:
    """One request's part in a run.

    `arrays` has one array for each input of the signature, checked; `wanted` names the outputs, none of them
    twice, and is empty for "whatever the model gives". `rows` is the size of the arrays' leading dimension,
    1 where they have no such thing.
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
        """The same job on other arrays of as many rows."""
        return Task(self.servable, self.signature, arrays, self.wanted, self.deadline, self.rows)


class TaskResult(NamedTuple):
    """A job's answer."""

    #: By name; views of the run's outputs where others had part in it.
    outputs: dict[str, Array]
    #: When its run began, monotonic seconds.
    began: float
    #: Microseconds in the session.
    compute_us: int
    #: Rows of the whole run, those of others included, padding not.
    batch_size: int


#: What becomes of a job: an answer, or the error that its request is to be answered with.
TaskOutcome = TaskResult | Exception
