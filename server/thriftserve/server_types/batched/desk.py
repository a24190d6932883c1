"""What a front may do by itself for the service that it fronts, told by whoever hosts the service.

    message --> Desk: answered here? | its time-out? | what a failure looks like

Without a desk any service is carried all the same: each message goes to a worker, and what the front must
refuse is answered by a plain TApplicationException.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from thrift.Thrift import TProcessor

from thriftserve.errors import Code
from thriftserve.supervisor.context import WorkerContext

#: Makes the result struct of a method that failed: (method, code, message); None for a TApplicationException.
Fault = Callable[[str, Code, str], Any]


def no_result(method: str, code: Code, message: str) -> Any:
    """What a service without errors of its own answers."""
    return None


@dataclass(frozen=True)
class Desk:
    """A service's own rules for its fronts.

    Attributes:
        fault: makes the answer to a request that fails before any handler saw it.
        make_processor: called in each front with its context and with what workers said of themselves (a dict that is
            kept up to date); answers the methods in `local`.
        local: methods that the front answers itself, whatever the workers do.
        timeouts: where a method's time-out in milliseconds stands: field numbers from its arguments down to an i32.
        ordered: whether a client's requests run one after the other, as on the other server types; where they are
            independent of each other, a client that sends several at once gets them run together.
        lanes: where a method's part of the service stands (a model's name): field numbers from its arguments down to a
            string. What workers say of themselves under "max_waiting" limits how many requests of a part may wait.
        repeatable: methods that may be run again when the worker that ran them died.
    """

    fault: Fault = no_result
    make_processor: Callable[[WorkerContext, dict[str, Any]], TProcessor] | None = None
    local: frozenset[str] = frozenset()
    timeouts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    lanes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ordered: bool = True
    repeatable: frozenset[str] = frozenset()
