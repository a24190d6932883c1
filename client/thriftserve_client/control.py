"""What operators ask of a server, on its control port.

    load | unload | set_label | reload --Caller--> ModelControl --> the states of the model's versions

>>> with Control("127.0.0.1", 9091) as control:       # doctest: +SKIP
...     control.load("digits", "/models/digits", version=42)
"""

from __future__ import annotations

from types import TracebackType

from thriftserve_client import answers, requests, results
from thriftserve_client.address import Address, SslOptions
from thriftserve_client.caller import Caller
from thriftserve_client.connection import Dialing
from thriftserve_client.wire import DEFAULT_MAX_MESSAGE_BYTES
from thriftserve_idl.ttypes import LoadModelRequest, SetVersionLabelRequest

_CONNECT_TIMEOUT_S = 5.0


class Control:
    """Calls the ModelControl service of one server; raises what `Client` raises.

    A call is answered when the thing has begun; `Client.status` tells what becomes of it.

    Args:
        host: name or address of the server.
        port: its control port.
        transport: "framed" or "buffered", as the server has it.
        protocol: "binary" or "compact", as the server has it.
        timeout_s: how long a call may take, connecting included; None waits for ever.
        ssl: TLS options; None speaks plain text.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        transport: str = "framed",
        protocol: str = "binary",
        timeout_s: float | None = 30.0,
        ssl: SslOptions | None = None,
    ) -> None:
        address = Address(host, port, None, ssl)
        self._caller = Caller(Dialing(address, transport, protocol, _CONNECT_TIMEOUT_S, DEFAULT_MAX_MESSAGE_BYTES))
        self._timeout_s = timeout_s

    def __enter__(self) -> Control:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._caller.close()

    def reload(self) -> None:
        """Has the server read its configuration again, as SIGHUP does."""
        self._caller.call("reloadConfig", self._timeout_s)

    def load(self, model: str, source: str, *, version: int | None = None) -> results.ModelStatus:
        """Has a model served from a base path: one version of it, or the newest."""
        request = LoadModelRequest(model, source, version)
        return answers.model_status(self._caller.call("loadModel", self._timeout_s, request))

    def unload(self, model: str, *, version: int | None = None) -> results.ModelStatus:
        """Has a model, or one version of it, served no more."""
        spec = requests.model_spec(model, version, None)
        return answers.model_status(self._caller.call("unloadModel", self._timeout_s, spec))

    def set_label(
        self, model: str, label: str, version: int | None, *, allow_unavailable: bool = False
    ) -> results.ModelStatus:
        """Points a label at a version; None takes the label away."""
        request = SetVersionLabelRequest(model, label, version, allow_unavailable)
        return answers.model_status(self._caller.call("setVersionLabel", self._timeout_s, request))
