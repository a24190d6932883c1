"""What goes wrong, as HTTP says it; the one place where errors of calls become answers.

    ServerError | CallTimeout | ConnectionFailed | Refusal | any Exception --> status, {"error": message}

Statuses are those that TensorFlow Serving gives for the same codes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from thriftserve.errors import Code
from thriftserve_client.errors import (
    CallTimeout,
    ConnectionFailed,
    MessageTooLarge,
    ProtocolMismatch,
    ServerError,
    TensorError,
)

log = logging.getLogger(__name__)

STATUS: Mapping[int, int] = {
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}
#: What a client that was turned away for load is told to wait.
RETRY_AFTER = {"retry-after": "1"}


class Refusal(Exception):
    """A request is answered with an error.

    Args:
        message: stands in the answer.
        status: the HTTP status.
        headers: further headers of the answer.
    """

    def __init__(self, message: str, status: int = 400, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.headers = headers or {}


def refusal_of(error: Exception, request_id: str) -> Refusal:
    """What an exception is answered with; one that nobody foresaw is logged with its traceback."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ServerError):
        return _of_server(error)
    if isinstance(error, CallTimeout):
        return Refusal(str(error), 504)
    if isinstance(error, ConnectionFailed):
        return Refusal(str(error), 503, RETRY_AFTER)
    if isinstance(error, ProtocolMismatch):
        return Refusal(str(error), 502)
    if isinstance(error, MessageTooLarge):
        return Refusal(str(error), 413)
    if isinstance(error, TensorError):
        return Refusal(str(error))
    log.error("request %s failed", request_id, exc_info=error)
    return Refusal(f"the gateway failed with {type(error).__name__}; its log has the cause", 500)


def _of_server(error: ServerError) -> Refusal:
    status = STATUS.get(error.code, 500)
    if error.code == Code.RESOURCE_EXHAUSTED and error.retryable:
        # A queue or a limit of the server is full: later it will do. TensorFlow Serving's full queue is a 503, too.
        status = 503
    return Refusal(error.message, status, RETRY_AFTER if status == 503 else None)
