"""The client of a server's control port, for operators.

    load | unload | set_label | reload --SharedConnection--> ModelControl --> the states of the model's versions

>>> with Control("127.0.0.1", 9091) as control:       # doctest: +SKIP
...     control.load("digits", "https://models.example/digits-43.tar.gz", sha256="9f86…")
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from thriftserve_client import decode, requests, results
from thriftserve_client.address import Address, SslOptions
from thriftserve_client.connection import ConnectionConfig, SharedConnection
from thriftserve_client.wire.protocols import DEFAULT_MAX_MESSAGE_BYTES
from thriftserve_idl.ttypes import LoadModelRequest, SetVersionLabelRequest

_CONNECT_TIMEOUT_S = 5.0


class Control:
    """Calls the ModelControl service of one server; raises what `Client` raises.

    A call returns when the server has begun the operation; `status` returns its progress.

    Args:
        host: name or address of the server.
        port: its control port.
        transport: "framed" or "buffered", as on the server.
        protocol: "binary" or "compact", as on the server.
        timeout_s: limit on a call, connecting included; None for no limit.
        ssl: TLS options; None connects without TLS.
        token: the server's control token; None if it has none.
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
        config = ConnectionConfig(address, transport, protocol, _CONNECT_TIMEOUT_S, DEFAULT_MAX_MESSAGE_BYTES)
        self._connection = SharedConnection(config)
        self._timeout_s = timeout_s
        self._token = token

    def __enter__(self) -> Control:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def reload(self) -> None:
        """Make the server read its configuration again, as SIGHUP does."""
        self._call("reloadConfig")

    def load(
        self, model: str, source: str, *, version: int | None = None, sha256: str | None = None
    ) -> results.ModelStatus:
        """Serve a model from a base path, or fetch it from a URL and serve it.

        Args:
            model: the name to serve it under.
            source: an absolute path on the server, or the http://, https:// or file:// URL of a packed model.
            version: for a base path the version to serve, None for the newest; for a URL the number that the model
                gets, None for the next one.
            sha256: expected SHA-256 of the download, in hexadecimal; only for a URL.
        """
        return decode.model_status(self._call("loadModel", LoadModelRequest(model, source, version, sha256)))

    def unload(self, model: str, *, version: int | None = None) -> results.ModelStatus:
        """Stop serving and fetching a model, or one version of it."""
        return decode.model_status(self._call("unloadModel", requests.model_spec(model, version, None)))

    def set_label(
        self, model: str, label: str, version: int | None, *, allow_unavailable: bool = False
    ) -> results.ModelStatus:
        """Point a label at a version; None removes the label."""
        request = SetVersionLabelRequest(model, label, version, allow_unavailable)
        return decode.model_status(self._call("setVersionLabel", request))

    def status(self, model: str, *, version: int | None = None) -> results.ModelStatus:
        """Return the state of every version of a model, or of one; a fetch has its progress as its note."""
        return decode.model_status(self._call("getLoadStatus", requests.model_spec(model, version, None)))

    def _call(self, method: str, *values: Any) -> Any:
        return self._connection.call(method, self._timeout_s, *values, self._token)
