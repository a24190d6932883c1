"""Where neutral errors become the contract's exception, once for every method.

    ThriftServeError | MemoryError | any Exception --> count, log --> PredictError(code, message, retryable)

What is no `Exception` (SystemExit, KeyboardInterrupt) passes: the layer that owns the thread decides.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from thriftserve.errors import Code, Internal, ResourceExhausted, ThriftServeError
from thriftserve_idl.ttypes import DataType, ErrorCode, PredictError

# How names, shapes and types stand in messages that people read.

#: Names listed before "and more"; characters of one name before it is cut.
MOST_NAMES = 20
MOST_CHARACTERS = 100


def quoted(name: str) -> str:
    """One name in quotes, cut when it is long."""
    return repr(name) if len(name) <= MOST_CHARACTERS else repr(name[:MOST_CHARACTERS]) + "…"


def listed(names: Iterable[str]) -> str:
    """Names in quotes and in order, with commas: `'a', 'b'`; "nothing" for none."""
    ordered = sorted(names)
    text = ", ".join(quoted(name) for name in islice(ordered, MOST_NAMES))
    if len(ordered) > MOST_NAMES:
        return f"{text} and {len(ordered) - MOST_NAMES} more"
    return text or "nothing"


def shaped(shape: Sequence[int | None] | None) -> str:
    """A shape as `[?, 224, 224, 3]`: `?` where any size will do, "any shape" for an unknown rank."""
    if shape is None:
        return "any shape"
    sizes = ["?" if size is None else str(size) for size in islice(shape, MOST_NAMES)]
    if len(shape) > MOST_NAMES:
        sizes.append("…")
    return f"[{', '.join(sizes)}]"


def typed(dtype: int | None) -> str:
    """An element type by its name; the bare number where the contract has no such type."""
    if dtype is None:
        return "no dtype"
    try:
        return DataType(dtype).name
    except ValueError:
        return f"unknown dtype {dtype}"


logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


class ErrorCounter(Protocol):
    """What counts the requests that were answered with an error."""

    def add_error(self) -> None:
        """Counts one."""


class RequestCounter(ErrorCounter, Protocol):
    """What also counts the requests that ran."""

    def observe(self, queue_us: int, compute_us: int, batch_size: int) -> None:
        """Counts one: microseconds queued, microseconds in the model, rows of the run."""


class HasCounters(Protocol):
    """A service whose methods stand behind `door`."""

    @property
    def counters(self) -> ErrorCounter:
        """Where its errors are counted."""


S = TypeVar("S", bound=HasCounters)


def translate_errors(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Makes a service's method fail with PredictError and nothing else."""

    @functools.wraps(method)
    def answer(service: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(service, *args, **kwargs)
        except Exception as error:
            told = to_predict_error(service, method.__name__, args[0] if args else None, error)
        # Outside the except branch, so that what was raised inside does not travel along.
        raise told

    return answer


def to_predict_error(service: HasCounters, method: str, request: Any, error: Exception) -> PredictError:
    """What the client is told of an error: it is counted and logged, and becomes the contract's exception."""
    fault = neutral(error)
    service.counters.add_error()
    _log(method, request, fault, error)
    return PredictError(ErrorCode(fault.code), fault.message, fault.retryable)


def neutral(error: Exception) -> ThriftServeError:
    """What an exception is answered with; of one that nobody foresaw its type, and none of its traceback."""
    if isinstance(error, ThriftServeError):
        return error
    if isinstance(error, MemoryError):
        return ResourceExhausted("the server has not enough memory for this request now: send less at once, or later")
    return Internal(f"the request failed with {type(error).__name__}; the server's log has the cause")


def _log(method: str, request: Any, fault: ThriftServeError, cause: Exception) -> None:
    request_id = quoted(str(getattr(request, "request_id", None) or ""))
    if fault.code == Code.INTERNAL or isinstance(cause, MemoryError):
        logger.error("%s failed, request_id=%s: %s", method, request_id, fault.message, exc_info=cause)
    else:
        logger.debug("%s answered %s, request_id=%s: %s", method, fault.code.name, request_id, fault.message)
