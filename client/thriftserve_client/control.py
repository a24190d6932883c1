"""What operators ask of a server, on its control port.

    load | unload | set_label | reload --Caller--> ModelControl --> the states of the model's versions

>>> with Control("127.0.0.1", 9091) as control:       # doctest: +SKIP
...     control.load("digits", "https://models.example/digits-43.tar.gz", sha256="9f86…")
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from thriftserve_client import decode, requests, results
from thriftserve_client.address import Address, SslOptions
from thriftserve_client.connection import Dialing
from thriftserve_client.shared_connection import Caller
from thriftserve_client.wire.protocols import DEFAULT_MAX_MESSAGE_BYTES
from thriftserve_idl.ttypes import LoadModelRequest, SetVersionLabelRequest

_CONNECT_TIMEOUT_S = 5.0


class Control:
    """Calls the ModelControl service of one server; raises what `Client` raises.

    A call is answered when the thing has begun; `status` tells what becomes of it.

    Args:
        host: name or address of the server.
        port: its control port.
        transport: "framed" or "buffered", as the server has it.
        protocol: "binary" or "compact", as the server has it.
        timeout_s: how long a call may take, connecting included; None waits for ever.
        ssl: TLS options; None speaks plain text.
        token: what the server wants calls to carry; None: nothing.
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
        token: str | None = None,
    ) -> None:
        address = Address(host, port, None, ssl)
        self._caller = Caller(Dialing(address, transport, protocol, _CONNECT_TIMEOUT_S, DEFAULT_MAX_MESSAGE_BYTES))
        self._timeout_s = timeout_s
        self._token = token

    def __enter__(self) -> Control:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._caller.close()

    def reload(self) -> None:
        """Has the server read its configuration again, as SIGHUP does."""
        self._call("reloadConfig")

    def load(
        self, model: str, source: str, *, version: int | None = None, sha256: str | None = None
    ) -> results.ModelStatus:
        """Has a model served from a base path, one version of it or the newest; or fetched from a URL and served.

        Args:
            source: an absolute path on the server, or the http://, https:// or file:// URL of a packed model.
            version: of a base path the one to serve, of a URL the one that it becomes; None: the newest, or one more.
            sha256: what the download's must be, in hexadecimal; for a URL only.
        """
        return decode.model_status(self._call("loadModel", LoadModelRequest(model, source, version, sha256)))

    def unload(self, model: str, *, version: int | None = None) -> results.ModelStatus:
        """Has a model, or one version of it, served and fetched no more."""
        return decode.model_status(self._call("unloadModel", requests.model_spec(model, version, None)))

    def set_label(
        self, model: str, label: str, version: int | None, *, allow_unavailable: bool = False
    ) -> results.ModelStatus:
        """Points a label at a version; None takes the label away."""
        request = SetVersionLabelRequest(model, label, version, allow_unavailable)
        return decode.model_status(self._call("setVersionLabel", request))

    def status(self, model: str, *, version: int | None = None) -> results.ModelStatus:
        """The state of every version of a model, or of one; of those that are being fetched, how far that is."""
        return decode.model_status(self._call("getLoadStatus", requests.model_spec(model, version, None)))

    def _call(self, method: str, *values: Any) -> Any:
        return self._caller.call(method, self._timeout_s, *values, self._token)
