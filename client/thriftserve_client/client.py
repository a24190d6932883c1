"""The client: numpy in, numpy out, one connection.

    predict(model, {"x": array}) --requests--> Caller --answers--> Prediction

>>> with Client("127.0.0.1", 9090) as client:       # doctest: +SKIP
...     prediction = client.predict("half_plus_two", {"x": [1.0, 2.0, 5.0]})
...     print(prediction["y"], prediction.version)
[2.5 3.  4.5] 123
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from thriftserve_client import decode, requests, results
from thriftserve_client.address import Address, SslOptions
from thriftserve_client.connection import Dialing
from thriftserve_client.requests import Image
from thriftserve_client.shared_connection import Caller
from thriftserve_client.wire.protocols import DEFAULT_MAX_MESSAGE_BYTES, PROTOCOLS
from thriftserve_idl.ttypes import ClassifyRequest, DetectRequest, PredictRequest

TRANSPORTS = ("framed", "buffered")


class _Default:
    """Stands for the client's own time-out, where None means none."""


_CLIENTS_OWN = _Default()
Timeout = float | None | _Default


class Client:
    """Calls one server over one connection, opened by the first call.

    Threads may share a client: their calls follow one another, and the wait counts towards a call's time.
    A forked child opens a connection of its own. After a time-out or a broken connection the connection is
    closed, never used out of step, and the next call opens a new one. Where a connection that had served
    before turns out closed when a call goes out on it (the server's idle time-out, a restart), the call is sent
    once more on a new one: every method may be repeated without harm.

    Args:
        host: name or address of the server.
        port: its TCP port.
        unix_socket: path of its Unix socket, instead of host and port.
        transport: "framed" or "buffered", as the server has it.
        protocol: "binary" or "compact", as the server has it.
        timeout_s: how long a call may take, connecting included; an answer that began in time may take as long
            again to come whole. None waits for ever. The server is told, and does not begin a run that is late.
        connect_timeout_s: how long connecting, and each step of a TLS handshake, may take.
        ssl: TLS options; None speaks plain text.
        max_message_bytes: the largest request or answer.

    Every method raises:
        ServerError: the server's answer was an error; a subclass for each code that matters.
        ConnectionFailed: no connection, or it broke.
        CallTimeout: no answer in time.
        ProtocolMismatch: what answered does not speak this contract, transport or protocol.
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
        self._caller = Caller(Dialing(address, transport, protocol, connect_timeout_s, max_message_bytes))
        self._timeout_s = timeout_s

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._caller.dialing})"

    def close(self) -> None:
        """Closes the connection, after the call in progress; a later call would open a new one."""
        self._caller.close()

    def ping(self, *, timeout_s: Timeout = _CLIENTS_OWN) -> None:
        """Returns where the server takes requests, raises where it does not."""
        self._caller.call("ping", self._limit(timeout_s))

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Any],
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str | None = None,
        outputs: Iterable[str] | None = None,
        timeout_s: Timeout = _CLIENTS_OWN,
        request_id: str | None = None,
    ) -> results.Prediction:
        """Runs a signature of a model.

        Args:
            model: the name it is served under.
            inputs: by name, each an array or what numpy makes one of; str and bytes become STRING.
            version: an exact version; the newest where neither it nor `label` is given.
            label: a label that points at a version.
            signature: the signature's name; "serving_default" where it is not given.
            outputs: names of the outputs wanted; all where it is not given.
            timeout_s: instead of the client's own.
            request_id: stands in the server's log lines about this request.

        Returns:
            The outputs by name: read-only arrays, STRING as object arrays of bytes.

        Raises:
            TensorError: an input does not make a tensor.
        """
        limit = self._limit(timeout_s)
        request = PredictRequest(
            requests.model_spec(model, version, label, signature),
            requests.tensors(inputs),
            requests.output_filter(outputs),
            requests.timeout_ms(limit),
            request_id,
        )
        return decode.prediction(self._caller.call("predict", limit, request))

    def classify(
        self,
        model: str,
        images: Image | Sequence[Image],
        *,
        top_k: int | None = None,
        version: int | None = None,
        label: str | None = None,
        signature: str | None = None,
        timeout_s: Timeout = _CLIENTS_OWN,
        request_id: str | None = None,
    ) -> results.PerImage[tuple[results.Classification, ...]]:
        """Names the best classes of each image.

        Args:
            model: the name it is served under.
            images: one or several, each the bytes of an image file (JPEG, PNG, GIF, BMP, WebP, TIFF) or its path.
            top_k: how many classes an image; 5 where it is not given.
            version: as for `predict`, like those that follow.
            label: a label that points at a version.
            signature: the signature's name.
            timeout_s: instead of the client's own.
            request_id: stands in the server's log lines about this request.

        Returns:
            For each image its classes, best first.

        Raises:
            OSError: an image file can't be read.
        """
        limit = self._limit(timeout_s)
        request = ClassifyRequest(
            requests.model_spec(model, version, label, signature),
            requests.encoded_images(images),
            top_k,
            requests.timeout_ms(limit),
            request_id,
        )
        return decode.classifications(self._caller.call("classify", limit, request))

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
        timeout_s: Timeout = _CLIENTS_OWN,
        request_id: str | None = None,
    ) -> results.PerImage[results.ImageDetections]:
        """Finds objects in each image.

        Args:
            model: the name it is served under.
            images: as for `classify`.
            min_score: boxes below it are left out; 0.5 where it is not given.
            max_detections: at most so many boxes an image; 100 where it is not given.
            version: as for `predict`, like those that follow.
            label: a label that points at a version.
            signature: the signature's name.
            timeout_s: instead of the client's own.
            request_id: stands in the server's log lines about this request.

        Returns:
            For each image its size and its objects, best first.

        Raises:
            OSError: an image file can't be read.
        """
        limit = self._limit(timeout_s)
        request = DetectRequest(
            requests.model_spec(model, version, label, signature),
            requests.encoded_images(images),
            min_score,
            max_detections,
            requests.timeout_ms(limit),
            request_id,
        )
        return decode.detections(self._caller.call("detect", limit, request))

    def metadata(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout_s: Timeout = _CLIENTS_OWN,
    ) -> results.ModelMetadata:
        """The signatures and labels of a model."""
        spec = requests.model_spec(model, version, label)
        return decode.metadata(self._caller.call("getModelMetadata", self._limit(timeout_s), spec))

    def status(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout_s: Timeout = _CLIENTS_OWN,
    ) -> results.ModelStatus:
        """The state of every version of a model, or of the one named."""
        spec = requests.model_spec(model, version, label)
        return decode.model_status(self._caller.call("getModelStatus", self._limit(timeout_s), spec))

    def models(self, *, timeout_s: Timeout = _CLIENTS_OWN) -> list[results.ModelStatus]:
        """The state of every version of every model."""
        return [decode.model_status(one) for one in self._caller.call("listModels", self._limit(timeout_s))]

    def server_status(self, *, timeout_s: Timeout = _CLIENTS_OWN) -> results.ServerStatus:
        """The server and each of its workers."""
        return decode.server_status(self._caller.call("getServerStatus", self._limit(timeout_s)))

    def _limit(self, timeout_s: Timeout) -> float | None:
        return self._timeout_s if isinstance(timeout_s, _Default) else timeout_s


def _check(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}={value!r}; expected one of {', '.join(known)}")
