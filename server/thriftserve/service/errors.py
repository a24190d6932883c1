"""Translate the server's errors into the contract's exception, and write the values that messages name.

    ThriftServeError | MemoryError | any Exception --> count, log --> PredictError(code, message, retryable)

SystemExit and KeyboardInterrupt pass through: the layer that owns the thread decides about them.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from thriftserve.errors import Code, Internal, ResourceExhausted, ThriftServeError
from thriftserve.models.session import TensorSpec
from thriftserve_idl.ttypes import DataType, ErrorCode, PredictError

logger = logging.getLogger(__name__)

#: Names or sizes that one message lists, and characters of one name: a client chooses both, and reads them on one line.
MOST_NAMES = 20
MOST_CHARACTERS = 100

P = ParamSpec("P")
R = TypeVar("R")


class ErrorCounter(Protocol):
    """Counts the requests that were answered with an error."""

    def add_error(self) -> None:
        """Count one such request."""


class RequestCounter(ErrorCounter, Protocol):
    """Counts the requests that ran, too."""

    def observe(self, queue_us: int, compute_us: int, batch_size: int) -> None:
        """Count one request: microseconds queued, microseconds in the model, rows of its run."""


class HasCounters(Protocol):
    """A service whose methods `translate_errors` wraps."""

    @property
    def counters(self) -> ErrorCounter:
        """Count its errors."""


S = TypeVar("S", bound=HasCounters)


def translate_errors(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Make a service's method raise PredictError and no other exception."""

    @functools.wraps(method)
    def translated(service: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(service, *args, **kwargs)
        except Exception as error:
            predict_error = to_predict_error(service, method.__name__, args[0] if args else None, error)
        # Outside the except branch, so that the original exception does not become its context.
        raise predict_error

    return translated


def to_predict_error(service: HasCounters, method: str, request: Any, error: Exception) -> PredictError:
    """Count and log an error; return the exception that the client gets for it."""
    neutral = to_neutral(error)
    service.counters.add_error()
    _log(method, request, neutral, error)
    return PredictError(ErrorCode(neutral.code), neutral.message, neutral.retryable)


def to_neutral(error: Exception) -> ThriftServeError:
    """Return the server's own error for any exception; of an unforeseen one the client learns the type alone."""
    if isinstance(error, ThriftServeError):
        return error
    if isinstance(error, MemoryError):
        return ResourceExhausted("the server is out of memory for this request: send a smaller one, or retry later")
    return Internal(f"the request failed with {type(error).__name__}: see the server's log for the cause")


def _log(method: str, request: Any, neutral: ThriftServeError, cause: Exception) -> None:
    request_id = quote(str(getattr(request, "request_id", None) or ""))
    if neutral.code == Code.INTERNAL or isinstance(cause, MemoryError):
        logger.error("%s failed, request_id=%s: %s", method, request_id, neutral.message, exc_info=cause)
    else:
        logger.debug("%s answered %s, request_id=%s: %s", method, neutral.code.name, request_id, neutral.message)


def quote(name: str) -> str:
    """Return a name in quotes, cut after `MOST_CHARACTERS`."""
    return repr(name) if len(name) <= MOST_CHARACTERS else repr(name[:MOST_CHARACTERS]) + "…"


def quote_all(names: Iterable[str]) -> str:
    """Return names in quotes, sorted, with commas: `'a', 'b'`; "nothing" for none."""
    ordered = sorted(names)
    text = ", ".join(quote(name) for name in islice(ordered, MOST_NAMES))
    if len(ordered) > MOST_NAMES:
        return f"{text} and {len(ordered) - MOST_NAMES} more"
    return text or "nothing"


def format_shape(shape: Sequence[int | None] | None) -> str:
    """Return a shape as `[?, 224, 224, 3]`: `?` is any size; "any shape" is an unknown rank."""
    if shape is None:
        return "any shape"
    sizes = ["?" if size is None else str(size) for size in islice(shape, MOST_NAMES)]
    if len(shape) > MOST_NAMES:
        sizes.append("…")
    return f"[{', '.join(sizes)}]"


def format_specs(specs: Mapping[str, TensorSpec]) -> str:
    """Return inputs or outputs by name, such as `'x' FLOAT [?, 4], 'y' FLOAT any shape`; "nothing" for none."""
    texts = [f"{quote(name)} {spec.dtype.name} {format_shape(spec.shape)}" for name, spec in sorted(specs.items())]
    return ", ".join(texts) or "nothing"


def format_dtype(dtype: int | None) -> str:
    """Return an element type's name, or its number if the contract has no such type."""
    if dtype is None:
        return "none"
    try:
        return DataType(dtype).name
    except ValueError:
        return f"{dtype} (unknown)"
