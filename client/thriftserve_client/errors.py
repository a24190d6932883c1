"""The errors that calls raise.

::

    ThriftServeClientError            the root
      TensorError                     an array or a Tensor that is not well formed (a ValueError, too)
      ServerError                     the server replied with an error: code, message, retryable
        InvalidArgumentError          the request is wrong: do not repeat it unchanged
        DeadlineExceededError         its deadline passed before it was run
        NotFoundError                 no such model, version, label or signature
        ResourceExhaustedError        a queue or a limit is full: try again after a pause
        FailedPreconditionError       the model is not what the method needs
        UnimplementedError            this server can't do that
        UnauthenticatedError          the control port's token is missing or wrong
        InternalError                 the server or the model failed
        UnavailableError              loading or stopping: try again, or elsewhere
      MessageTooLarge                 the request exceeds max_message_bytes; nothing was sent
      ConnectionFailed                no connection, or it broke (a ConnectionError, too)
      CallTimeout                     no reply within the call's time-out (a TimeoutError, too)
      ProtocolMismatch                the reply is not of this contract: wrong port, transport or protocol
"""

from __future__ import annotations

from typing import Any

from thriftserve_idl.ttypes import ErrorCode


class ThriftServeClientError(Exception):
    """The root of this package's errors."""


class TensorError(ThriftServeClientError, ValueError):
    """An array that can't become a Tensor, or a Tensor whose parts contradict each other."""


class MessageTooLarge(ThriftServeClientError):
    """The request exceeds max_message_bytes; nothing was sent."""


class ConnectionFailed(ThriftServeClientError, ConnectionError):
    """The server could not be reached, or the connection broke during the call."""


class CallTimeout(ThriftServeClientError, TimeoutError):
    """No reply arrived within the call's time-out. The server may still have run the request."""


class ProtocolMismatch(ThriftServeClientError):
    """The reply is not of this contract; the message says what to check."""


class ServerError(ThriftServeClientError):
    """The server replied with an error.

    `code` is the ErrorCode, or a plain int that this client does not know. `message` is for people. `retryable` is true
    if the same request may succeed later or on another server.
    """

    def __init__(self, code: ErrorCode | int, message: str, retryable: bool = False) -> None:
        super().__init__(code, message, retryable)
        self.code = code
        self.message = message
        self.retryable = retryable

    def __str__(self) -> str:
        name = self.code.name if isinstance(self.code, ErrorCode) else f"code {self.code}"
        return f"{name}: {self.message}"

    @staticmethod
    def of(code: int, message: str | None, retryable: bool | None) -> ServerError:
        """Return the error of the class for `code`, from a PredictError's fields."""
        known: Any = ErrorCode(code) if code in set(ErrorCode) else code
        return _BY_CODE.get(known, ServerError)(known, message or "the server gave no message", bool(retryable))


class InvalidArgumentError(ServerError):
    """The request is wrong, whatever the server's state."""


class DeadlineExceededError(ServerError):
    """The request's deadline passed before it was run; it had no effect."""


class NotFoundError(ServerError):
    """The model, version, label or signature named is not served there."""


class ResourceExhaustedError(ServerError):
    """A queue, a connection limit or memory is full."""


class FailedPreconditionError(ServerError):
    """The model or server is not in the state that the request needs."""


class UnimplementedError(ServerError):
    """The server does not have this capability."""


class UnauthenticatedError(ServerError):
    """The control port's token is missing or wrong."""


class InternalError(ServerError):
    """The server or the model failed; the server's log has the cause."""


class UnavailableError(ServerError):
    """The model is loading, or the server is stopping."""


_BY_CODE: dict[int, type[ServerError]] = {
    ErrorCode.INVALID_ARGUMENT: InvalidArgumentError,
    ErrorCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    ErrorCode.NOT_FOUND: NotFoundError,
    ErrorCode.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    ErrorCode.FAILED_PRECONDITION: FailedPreconditionError,
    ErrorCode.UNIMPLEMENTED: UnimplementedError,
    ErrorCode.UNAUTHENTICATED: UnauthenticatedError,
    ErrorCode.INTERNAL: InternalError,
    ErrorCode.UNAVAILABLE: UnavailableError,
}
