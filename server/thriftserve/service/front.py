"""What a batching server's front answers for the Predict service by itself, whatever its workers do.

ping | getServerStatus --> FrontHandler --> the scoreboard, and what workers said of themselves when they came
(method, code, message) --> fault() --> the method's result struct with the error
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from thriftserve.errors import Code
from thriftserve.service import convert
from thriftserve.service.errors import ErrorCounter, translate_errors
from thriftserve.status import ServerSnapshot
from thriftserve_idl import Predict
from thriftserve_idl.ttypes import ErrorCode, PredictError, ServerStatus

#: Methods that a front answers.
METHODS = frozenset({"ping", "getServerStatus"})
#: Where a request's timeout_ms stands: field numbers from the arguments down.
TIMEOUTS: Mapping[str, tuple[int, ...]] = {"predict": (1, 4), "classify": (1, 4), "detect": (1, 5)}
#: Where a request's model stands: request, model_spec, name.
LANES: Mapping[str, tuple[int, ...]] = {"predict": (1, 1, 1), "classify": (1, 1, 1), "detect": (1, 1, 1)}
#: Methods that give the same answer however often they are run: all of them.
REPEATABLE = frozenset(
    {"predict", "classify", "detect", "getModelMetadata", "getModelStatus", "listModels", "ping", "getServerStatus"}
)
_RETRYABLE = (Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE)


class FrontHandler(Predict.Iface):
    """Answers `METHODS`; nothing else reaches it."""

    def __init__(
        self,
        about: Mapping[str, Any],
        *,
        status: Callable[[], ServerSnapshot],
        counters: ErrorCounter,
        server_version: str,
    ) -> None:
        """Keeps what it is given.

        Args:
            about: what workers said of themselves, kept up to date: "models", the names of those served.
            status: gives the server's state at the moment of the call.
            counters: told of every request that is answered with an error.
            server_version: what getServerStatus gives as the version.
        """
        self.counters = counters
        self._about = about
        self._status = status
        self._server_version = server_version

    @translate_errors
    def ping(self) -> None:
        """Does nothing."""

    @translate_errors
    def getServerStatus(self) -> ServerStatus:
        """Tells the state of the server and of each process."""
        return convert.server_status(self._status(), self._about.get("models", ()), self._server_version)


def fault(method: str, code: Code, message: str) -> Any:
    """The result of a method that failed before it had begun; None: it is none of Predict's."""
    result = getattr(Predict, f"{method}_result", None)
    return result and result(error=PredictError(ErrorCode(code), message, retryable=code in _RETRYABLE))
