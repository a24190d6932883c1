"""The errors of the server, in neutral terms. Each protocol's endpoint translates them once.

::

    ThriftServeError                  code, message, retryable
      InvalidArgument                 the request itself is wrong
      DeadlineExceeded                the deadline passed before the request ran
      NotFound                        no such model, version, label or signature
      ResourceExhausted               a queue or another limit is full (retryable)
      FailedPrecondition              the model or server is in the wrong state for the request
      Unimplemented                   the server does not have this capability
      Unauthenticated                 the token is missing or wrong
      Internal                        the server or the model failed
      Unavailable                     loading or stopping (retryable)
      StartError                      the server can't start; carries an exit code
        ConfigError                   a setting is wrong
        BindError                     the address can't be listened on
        ModelLoadError                a model can't be loaded
        DeviceError                   a device does not exist
"""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """The canonical RPC codes; `ErrorCode` of the IDL has the same numbers."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class ExitCode(IntEnum):
    """Exit codes of the server's process. docs/reference/commands.md documents them."""

    OK = 0
    INTERNAL = 1
    CONFIG = 2
    BIND = 3
    MODEL_LOAD = 4
    DEVICE = 5
    WORKERS_FAILING = 6
    FORCED = 7


class ThriftServeError(Exception):
    """The root of all errors that this package raises on purpose."""

    code: Code = Code.UNKNOWN
    retryable: bool = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidArgument(ThriftServeError):
    """The request is wrong in itself, whatever the server's state."""

    code = Code.INVALID_ARGUMENT


class DeadlineExceeded(ThriftServeError):
    """The deadline of the request passed before it ran."""

    code = Code.DEADLINE_EXCEEDED


class NotFound(ThriftServeError):
    """No model, version, label or signature of that name is served."""

    code = Code.NOT_FOUND


class ResourceExhausted(ThriftServeError):
    """A queue or another limit is full. The same request may succeed later."""

    code = Code.RESOURCE_EXHAUSTED
    retryable = True


class FailedPrecondition(ThriftServeError):
    """The model or server is not in the state that the request needs."""

    code = Code.FAILED_PRECONDITION


class Unimplemented(ThriftServeError):
    """The server does not have this capability."""

    code = Code.UNIMPLEMENTED


class Unauthenticated(ThriftServeError):
    """The call carries no token, or the wrong one."""

    code = Code.UNAUTHENTICATED


class Internal(ThriftServeError):
    """The server or the model failed. The log has the cause."""

    code = Code.INTERNAL


class Unavailable(ThriftServeError):
    """The server is loading or stopping, or its workers are stuck. The same request may succeed later or elsewhere."""

    code = Code.UNAVAILABLE
    retryable = True


class StartError(ThriftServeError):
    """The server can't start or go on. Its process ends with `exit_code`."""

    code = Code.FAILED_PRECONDITION
    exit_code: ExitCode = ExitCode.INTERNAL


class ConfigError(StartError):
    """A setting is wrong. The message names it, its value and the remedy."""

    exit_code = ExitCode.CONFIG


class BindError(StartError):
    """The address can't be listened on."""

    exit_code = ExitCode.BIND


class ModelLoadError(StartError):
    """A model can't be loaded."""

    exit_code = ExitCode.MODEL_LOAD


class DeviceError(StartError):
    """A requested device does not exist."""

    exit_code = ExitCode.DEVICE
