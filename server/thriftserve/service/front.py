"""The part of the Predict service that a batching server's front answers without a worker.

ping | getServerStatus    --> FrontHandler --> the scoreboard, and what the workers announced
(method, code, message)   --> error_result --> the method's result struct with the error
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from thriftserve.errors import Code, Unavailable
from thriftserve.service import convert
from thriftserve.service.errors import ErrorCounter, translate_errors
from thriftserve.status import ServerSnapshot
from thriftserve_idl import Predict
from thriftserve_idl.ttypes import ErrorCode, PredictError, ServerStatus

#: Methods that a front answers itself.
LOCAL_METHODS = frozenset({"ping", "getServerStatus"})
#: Where a request's timeout_ms is: field numbers from the arguments down.
TIMEOUT_PATHS: Mapping[str, tuple[int, ...]] = {"predict": (1, 4), "classify": (1, 4), "detect": (1, 5)}
#: Where a request's model is: request, model_spec, name.
MODEL_NAME_PATHS: Mapping[str, tuple[int, ...]] = {"predict": (1, 1, 1), "classify": (1, 1, 1), "detect": (1, 1, 1)}
#: Where a request's own id is: request, request_id.
REQUEST_ID_PATHS: Mapping[str, tuple[int, ...]] = {"predict": (1, 5), "classify": (1, 5), "detect": (1, 6)}
#: Methods that may run twice if a worker dies: all of them, for none changes anything.
REPEATABLE_METHODS = frozenset(
    {"predict", "classify", "detect", "getModelMetadata", "getModelStatus", "listModels", "ping", "getServerStatus"}
)
_RETRYABLE_CODES = (Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE)


class FrontHandler(Predict.Iface):
    """Answer `LOCAL_METHODS`; the front sends it no other.

    Args:
        about: what the workers announced, kept up to date by the front; "models" are the names of those served.
        can_run: tells whether a worker would run a request now.
        status: returns the server's state at the moment of the call.
        counters: counts the requests that are answered with an error.
        server_version: the version that getServerStatus returns.
    """

    def __init__(
        self,
        about: Mapping[str, Any],
        *,
        can_run: Callable[[], bool],
        status: Callable[[], ServerSnapshot],
        counters: ErrorCounter,
        server_version: str,
    ) -> None:
        self.counters = counters
        self._about = about
        self._can_run = can_run
        self._status = status
        self._server_version = server_version

    @translate_errors
    def ping(self) -> None:
        """Raise UNAVAILABLE unless a worker would run a request now."""
        if not self._can_run():
            raise Unavailable("no worker can run requests: all are loading, or stuck")

    @translate_errors
    def getServerStatus(self) -> ServerStatus:
        """Return the state of the server and of each process."""
        return convert.server_status(self._status(), self._about.get("models", ()), self._server_version)


def error_result(method: str, code: Code, message: str) -> Any:
    """Return the result struct of a call that failed before it began; None if Predict has no such method."""
    result = getattr(Predict, f"{method}_result", None)
    return result and result(error=PredictError(ErrorCode(code), message, retryable=code in _RETRYABLE_CODES))
