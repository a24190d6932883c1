"""What a service offers if its calls can share runs: the contract between a worker of TBatchingServer and a processor.

    message --begin(method, args)--> a generator of tasks --batcher.run_all(tasks)--> results, sent in --> its reply

A processor that is not a `BatchProcessor` answers its calls one by one.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

#: Field numbers, from a message's struct down.
Path = tuple[int, ...]
#: Paths of what differs from call to call of a method, through maps of structs to a value in each: those of a call,
#: from the arguments down; those of its reply, from the result down, in the order in which they are sent.
Varying = tuple[Sequence[Path], Sequence[Path]]


class BatchHint(NamedTuple):
    """What a worker tells its front: how much it wants next, and what waiting for more can save."""

    #: Requests that are worth handing over at once; 0: none for now.
    requests: int = 1
    #: Microseconds of a run, whatever its size, and of each row in it; 0 while they are not known.
    fixed_us: float = 0.0
    row_us: float = 0.0
    #: Microseconds that the oldest request may wait for others if the operator set it; None: as long as `fixed_us` is
    #: worth.
    wait_us: int | None = None
    #: Batches that the worker's slot wants at once: with two, the next one is there when the first is done.
    depth: int = 1


class Span(NamedTuple):
    """A part of a message: the path that leads to it, the keys of the maps on the way, and its bytes."""

    path: Path
    keys: tuple[bytes, ...]
    value: bytes


class CallTemplate(Protocol):
    """What is known of every call like an earlier one; see `thriftserve.rpc.template_cache`."""

    def task(self, parts: Sequence[bytes], arrived: float) -> Any:
        """Return what a call with these parts wants run; None: it has to be decoded.

        Args:
            parts: its number, and what varies in the order of the `Span`s that the template was made for.
            arrived: when it arrived, monotonic seconds.
        """

    def layout(self, task: Any, outcome: Any) -> Any:
        """Return what the reply's layout depends on, besides the template (hashable); None: it is one of a kind."""

    def count(self, task: Any, outcome: Any) -> None:
        """Count a call that is being answered."""

    def result(self, task: Any, outcome: Any) -> Any:
        """Return the reply as the method's result struct."""

    def parts(self, task: Any, outcome: Any) -> list[bytes]:
        """Return the parts of the reply that vary, in their order."""


class BatchRunner(Protocol):
    """Runs tasks of several calls; any thread may call it."""

    def run_all(self, tasks: Sequence[Any]) -> Sequence[Any]:
        """Run tasks together; return a result or an exception for each, in their order."""

    def hint(self) -> BatchHint:
        """Return what this process wants next, by its own measurements."""


@runtime_checkable
class BatchProcessor(Protocol):
    """A processor some of whose calls can be begun together and answered from one run."""

    #: Runs the tasks of its calls.
    batcher: BatchRunner
    #: By method: the generated classes of its arguments and of its result.
    together: Mapping[str, tuple[type[Any], type[Any]]]
    #: By method: where large binary fields are in its arguments; see `thriftserve.rpc.scan.cut_out`.
    large: Mapping[str, Path]
    #: By method: where its calls, and their replies, differ from each other.
    varying: Mapping[str, Varying]

    def begin(self, method: str, args: Any) -> Generator[Any, Any, Any]:
        """Begin a call: yield each task that it wants run, be sent its result, and return the result struct."""

    def holders(self, method: str, args: Any) -> tuple[Iterable[Any], bool]:
        """Return the structs whose `content` is large, and whether it may be used for longer than the call."""

    def make_template(self, method: str, args: Any, task: Any, parts: Sequence[Span]) -> CallTemplate | None:
        """Return what holds for every call like this one, which was begun and is right; None: nothing does.

        Args:
            method: a key of `varying`.
            args: its arguments.
            task: its first one.
            parts: what varies of its message.
        """

    def about(self) -> dict[str, Any]:
        """Return what the fronts are told of this process when it connects (JSON)."""
