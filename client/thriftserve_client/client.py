"""The client: numpy in, numpy out, one connection.

    predict(model, {"x": array}) --requests--> SharedConnection --decode--> Prediction

>>> with Client("127.0.0.1", 9090) as client:       # doctest: +SKIP
...     prediction = client.predict("half_plus_two", {"x": [1.0, 2.0, 5.0]})
...     print(prediction["y"], prediction.version)
[2.5 3.  4.5] 123
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from thriftserve_client import decode, requests, results
from thriftserve_client.address import Address, SslOptions
from thriftserve_client.connection import ConnectionConfig, SharedConnection
from thriftserve_client.errors import (
    CallTimeout,
    ConnectionFailed,
    InvalidArgumentError,
    ServerError,
    TensorError,
    UnavailableError,
)
from thriftserve_client.requests import Image
from thriftserve_client.wire.protocols import DEFAULT_MAX_MESSAGE_BYTES, PROTOCOLS
from thriftserve_idl.ttypes import ClassifyRequest, DataType, DetectRequest, ModelSpec, PredictRequest

DEFAULT_SIGNATURE = "serving_default"
TRANSPORTS = ("framed", "buffered")
#: `wait_for_ready`: seconds that a server has to answer, and between two tries.
_READY_TRY_S, _READY_PAUSE_S = 1.0, 0.1


class _Default:
    """The client's own time-out; None means no time-out."""


_DEFAULT_TIMEOUT = _Default()
Timeout = float | None | _Default


class Client:
    """Calls one server over one connection, which the first call opens.

    Threads may share a client: their calls run one after the other, and the wait counts towards a call's time-out. A
    forked child opens its own connection. After a time-out or error the connection is closed, and the next call opens
    a new one. If the server has closed an idle connection (its idle time-out, a restart), the call is sent once more
    on a new one: every method may be repeated without harm.

    Args:
        host: name or address of the server.
        port: its TCP port.
        unix_socket: path of its Unix socket, instead of host and port.
        transport: "framed" or "buffered", as on the server.
        protocol: "binary" or "compact", as on the server.
        timeout_s: limit on a call, connecting included; a reply that begins in time may take as long again to
            arrive. None means no limit. The server gets the limit, and does not run a request after it.
        connect_timeout_s: limit on connecting, and on each step of a TLS handshake.
        ssl: TLS options; None connects without TLS.
        max_message_bytes: limit on a request or reply.

    Every method raises:
        ServerError: the server replied with an error; there is a subclass for each common code.
        ConnectionFailed: no connection, or it broke.
        CallTimeout: no reply in time.
        ProtocolMismatch: the reply is not of this contract, transport or protocol.
        MessageTooLarge: the request exceeds `max_message_bytes`.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 9090,
        *,
        unix_socket: str | os.PathLike[str] | None = None,
        transport: str = "framed",
        protocol: str = "binary",
        timeout_s: float | None = 30.0,
        connect_timeout_s: float | None = 5.0,
        ssl: SslOptions | None = None,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    ) -> None:
        _check("transport", transport, TRANSPORTS)
        _check("protocol", protocol, PROTOCOLS)
        address = Address(host, port, os.fspath(unix_socket) if unix_socket else None, ssl)
        config = ConnectionConfig(address, transport, protocol, connect_timeout_s, max_message_bytes)
        self._connection = SharedConnection(config)
        self._timeout_s = timeout_s
        #: The element types of inputs, by model, version, label and signature.
        self._types: dict[Any, dict[str, DataType]] = {}

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._connection.config})"

    def close(self) -> None:
        """Close the connection after the call in progress; a later call opens a new one."""
        self._connection.close()

    def ping(self, *, timeout_s: Timeout = _DEFAULT_TIMEOUT) -> None:
        """Return if a request sent now would be run; raise if not."""
        self._connection.call("ping", self._limit_s(timeout_s))

    def wait_for_ready(self, timeout_s: float | None = None) -> None:
        """Wait until a request would be run: until the server is there, has loaded its models and is not stuck.

        Args:
            timeout_s: how long to wait; None: without limit.

        Raises:
            ConnectionFailed, CallTimeout, UnavailableError: the last failure, when the time is over.
            ProtocolMismatch, ServerError: waiting would not help.
        """
        until = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while True:
            try:
                return self.ping(timeout_s=_READY_TRY_S)
            except (ConnectionFailed, CallTimeout, UnavailableError):
                if time.monotonic() >= until:
                    raise
            time.sleep(_READY_PAUSE_S)

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str | None = None,
        outputs: Iterable[str] | None = None,
        timeout_s: Timeout = _DEFAULT_TIMEOUT,
        request_id: str | None = None,
    ) -> results.Prediction:
        """Run a signature of a model.

        Args:
            model: its name on the server.
            inputs: by name, each an array or anything that numpy converts to one; str and bytes become STRING. Python
                numbers get the type that the model's metadata declares, which is asked for once.
            version: its number; the newest if neither it nor `label` is set.
            label: a label that points at a version.
            signature: its name; "serving_default" if not set.
            outputs: names of the outputs to return; all if not set.
            timeout_s: replaces the client's own.
            request_id: appears in the server's log lines about this request.

        Returns:
            The outputs by name: read-only arrays, STRING as object arrays of bytes.

        Raises:
            TensorError: an input can't become a tensor, or does not fit the type that the model declares.
        """
        limit_s = self._limit_s(timeout_s)
        spec = requests.model_spec(model, version, label, signature)
        untyped = any(requests.is_untyped(value) for value in inputs.values())
        types = self._input_types(spec, limit_s) if untyped else None

        def run() -> results.Prediction:
            request = PredictRequest(
                spec,
                requests.tensors(inputs, types),
                requests.output_filter(outputs),
                requests.timeout_ms(limit_s),
                request_id,
            )
            return decode.prediction(self._connection.call("predict", limit_s, request))

        try:
            return run()
        except (InvalidArgumentError, TensorError):
            if not untyped or (renewed := self._input_types(spec, limit_s, again=True)) == types:
                raise
            types = renewed  # the model has changed since it was asked
            return run()

    def _input_types(self, spec: ModelSpec, limit_s: float | None, *, again: bool = False) -> dict[str, DataType]:
        """Return the element types of a signature's inputs; nothing for a model that declares none, or is not there."""
        key = (spec.name, spec.version, spec.version_label, spec.signature_name)
        if again or key not in self._types:
            asked = ModelSpec(spec.name, spec.version, spec.version_label)
            try:
                metadata = decode.metadata(self._connection.call("getModelMetadata", limit_s, asked))
            except ServerError:  # the call itself says what is wrong
                return {}
            signature = metadata.signatures.get(spec.signature_name or DEFAULT_SIGNATURE)
            inputs = signature.inputs if signature is not None else {}
            self._types[key] = {name: info.dtype for name, info in inputs.items()}
        return self._types[key]

    def classify(
        self,
        model: str,
        images: Image | Sequence[Image],
        *,
        top_k: int | None = None,
        version: int | None = None,
        label: str | None = None,
        signature: str | None = None,
        timeout_s: Timeout = _DEFAULT_TIMEOUT,
        request_id: str | None = None,
    ) -> results.PerImage[tuple[results.Classification, ...]]:
        """Return the best classes of each image.

        Args:
            model: its name on the server.
            images: one or several, each the bytes of an image file (JPEG, PNG, GIF, BMP, WebP, TIFF) or its path.
            top_k: classes per image; 5 if not set.
            version: as for `predict`, like those that follow.
            label: a label that points at a version.
            signature: the signature's name.
            timeout_s: replaces the client's own.
            request_id: appears in the server's log lines about this request.

        Returns:
            For each image its classes, best first.

        Raises:
            OSError: an image file can't be read.
        """
        limit_s = self._limit_s(timeout_s)
        request = ClassifyRequest(
            requests.model_spec(model, version, label, signature),
            requests.encoded_images(images),
            top_k,
            requests.timeout_ms(limit_s),
            request_id,
        )
        return decode.classifications(self._connection.call("classify", limit_s, request))

    def detect(
        self,
        model: str,
        images: Image | Sequence[Image],
        *,
        min_score: float | None = None,
        max_detections: int | None = None,
        version: int | None = None,
        label: str | None = None,
        signature: str | None = None,
        timeout_s: Timeout = _DEFAULT_TIMEOUT,
        request_id: str | None = None,
    ) -> results.PerImage[results.ImageDetections]:
        """Return the objects in each image.

        Args:
            model: its name on the server.
            images: as for `classify`.
            min_score: boxes with lower scores are left out; 0.5 if not set.
            max_detections: limit on the boxes per image; 100 if not set.
            version: as for `predict`, like those that follow.
            label: a label that points at a version.
            signature: the signature's name.
            timeout_s: replaces the client's own.
            request_id: appears in the server's log lines about this request.

        Returns:
            For each image its size and its objects, best first.

        Raises:
            OSError: an image file can't be read.
        """
        limit_s = self._limit_s(timeout_s)
        request = DetectRequest(
            requests.model_spec(model, version, label, signature),
            requests.encoded_images(images),
            min_score,
            max_detections,
            requests.timeout_ms(limit_s),
            request_id,
        )
        return decode.detections(self._connection.call("detect", limit_s, request))

    def metadata(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout_s: Timeout = _DEFAULT_TIMEOUT,
    ) -> results.ModelMetadata:
        """Return the signatures and labels of a model."""
        spec = requests.model_spec(model, version, label)
        return decode.metadata(self._connection.call("getModelMetadata", self._limit_s(timeout_s), spec))

    def status(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout_s: Timeout = _DEFAULT_TIMEOUT,
    ) -> results.ModelStatus:
        """Return the state of every version of a model, or of the one named."""
        spec = requests.model_spec(model, version, label)
        return decode.model_status(self._connection.call("getModelStatus", self._limit_s(timeout_s), spec))

    def models(self, *, timeout_s: Timeout = _DEFAULT_TIMEOUT) -> list[results.ModelStatus]:
        """Return the state of every version of every model."""
        return [decode.model_status(status) for status in self._connection.call("listModels", self._limit_s(timeout_s))]

    def server_status(self, *, timeout_s: Timeout = _DEFAULT_TIMEOUT) -> results.ServerStatus:
        """Return the state of the server and of each worker."""
        return decode.server_status(self._connection.call("getServerStatus", self._limit_s(timeout_s)))

    def _limit_s(self, timeout_s: Timeout) -> float | None:
        return self._timeout_s if isinstance(timeout_s, _Default) else timeout_s


def _check(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(known)}")
