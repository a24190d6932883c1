"""A small real Predict service on Apache's own TThreadedServer, and servers that misbehave on purpose.

serving(...) -> Service(port, handler)      a model server without models: arithmetic and echoes
scripted(script, ...) -> port               the n-th connection is treated by the n-th script
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from thrift.protocol.TBinaryProtocol import TBinaryProtocolAcceleratedFactory
from thrift.protocol.TCompactProtocol import TCompactProtocolAcceleratedFactory
from thrift.server.TServer import TThreadedServer
from thrift.transport.TSocket import TSocket
from thrift.transport.TTransport import TBufferedTransportFactory, TFramedTransportFactory, TServerTransportBase

from thriftserve_client.codec import from_tensor, to_tensor
from thriftserve_idl import Predict, ttypes

ANY_VERSION = 7
FLOAT_VECTOR = ttypes.TensorInfo("x", ttypes.DataType.FLOAT, [-1])
WORDS = ttypes.TensorInfo("words", ttypes.DataType.STRING, [-1, -1])


@dataclass
class Handler:
    """Models: half_plus_two (x FLOAT [N] -> y), echo, waits (an echo, after `proceed`), fails (with input `code`)."""

    requests: list[Any] = field(default_factory=list)
    proceed: threading.Event = field(default_factory=threading.Event)
    #: Of the first class and the object; the object's box begins there, too.
    score: float | None = None

    def ping(self) -> None:
        """Answers."""

    def predict(self, request: Any) -> Any:
        self.requests.append(request)
        inputs = {name: from_tensor(tensor) for name, tensor in request.inputs.items()}
        name = request.model_spec.name
        if name == "fails":
            raise ttypes.PredictError(int(inputs["code"]), "as you wished", bool(inputs["retryable"]))
        if name == "half_plus_two":
            outputs = {"y": _floats(inputs["x"]) / 2 + 2, "x": _floats(inputs["x"])}
        elif name in ("echo", "waits"):
            if name == "waits":
                self.proceed.wait(60)
            outputs = inputs
        else:
            raise _not_found(name)
        wanted = request.output_filter or list(outputs)
        return ttypes.PredictResponse(
            _resolved(request.model_spec),
            {one: to_tensor(outputs[one]) for one in wanted},
            ttypes.Timing(3, 40, 2, 4711),
        )

    def classify(self, request: Any) -> Any:
        self.requests.append(request)
        classes = [ttypes.Classification(f"class {at}", 1.0 / (at + 1), at) for at in range(request.top_k or 5)]
        if self.score is not None:
            classes[0].score = self.score
        results = [ttypes.ImageClassification(classes) for _ in request.images]
        return ttypes.ClassifyResponse(_resolved(request.model_spec), results)

    def detect(self, request: Any) -> Any:
        self.requests.append(request)
        found = [ttypes.Detection("cat", 0.75, 17, ttypes.BoundingBox(0.1, 0.2, 0.5, 1.0))]
        if self.score is not None:
            found[0].score = found[0].box.y_min = self.score
        results = [ttypes.ImageDetections(found if image else [], 640, 480) for image in request.images]
        return ttypes.DetectResponse(_resolved(request.model_spec), results)

    def getModelMetadata(self, spec: Any) -> Any:
        inputs = {"half_plus_two": {"x": FLOAT_VECTOR}, "echo": {"words": WORDS}}.get(spec.name)
        if inputs is None:
            raise _not_found(spec.name)
        outputs = {"y": ttypes.TensorInfo("y", ttypes.DataType.FLOAT, [], True)}
        signature = ttypes.SignatureInfo("serving_default", "tensorflow/serving/predict", inputs, outputs)
        return ttypes.ModelMetadata(_resolved(spec), "tensorflow", {"serving_default": signature}, ["cat", "dog"])

    def getModelStatus(self, spec: Any) -> Any:
        if spec.name != "half_plus_two":
            raise _not_found(spec.name)
        gone = ttypes.ModelVersionStatus(6, ttypes.ModelState.ENDED, ttypes.ErrorCode.INTERNAL, "no such file", [])
        here = ttypes.ModelVersionStatus(7, ttypes.ModelState.AVAILABLE, None, "", ["stable"])
        return ttypes.ModelStatus(spec.name, [here, gone])

    def listModels(self) -> Any:
        return [self.getModelStatus(ttypes.ModelSpec("half_plus_two"))]

    def getServerStatus(self) -> Any:
        worker = ttypes.WorkerStatus(0, 4711, ttypes.WorkerState.IDLE, "cpu", 300 * 2**20, 1.5, 60.25, 120, 2, 0, 1, 0)
        state = ttypes.ServerState.SERVING
        return ttypes.ServerStatus(state, "TThreadedServer", 61.0, "0.1.0", 4710, [worker], ["half_plus_two"], 5, 1, 3)


def _floats(array: Any) -> Any:
    if array.dtype != np.float32:
        raise ttypes.PredictError(ttypes.ErrorCode.INVALID_ARGUMENT, f"x is {array.dtype}, expected float32", False)
    return array


def _not_found(name: str) -> Any:
    return ttypes.PredictError(ttypes.ErrorCode.NOT_FOUND, f"no model {name!r}; there is half_plus_two", False)


def _resolved(spec: Any) -> Any:
    return ttypes.ModelSpec(spec.name, spec.version or ANY_VERSION, None, spec.signature_name or "serving_default")


class _Stopped(BaseException):
    """Ends TThreadedServer.serve, which survives every Exception."""


class _Listening(TServerTransportBase):
    """A server transport over a socket that listens already, so that its port is known and free."""

    def __init__(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        self.listener = listener
        self.context = context

    def listen(self) -> None:
        """The socket listens."""

    def accept(self) -> Any:
        try:
            sock, _ = self.listener.accept()
        except OSError:
            raise _Stopped from None
        transport = TSocket()
        transport.setHandle(self.context.wrap_socket(sock, server_side=True) if self.context else sock)
        return transport


@dataclass
class Service:
    """A running service."""

    port: int
    handler: Handler


@contextlib.contextmanager
def serving(
    transport: str = "framed",
    protocol: str = "binary",
    unix_socket: str | None = None,
    context: ssl.SSLContext | None = None,
) -> Iterator[Service]:
    """A service in a thread of this process, until the block ends."""
    transports = {"framed": TFramedTransportFactory, "buffered": TBufferedTransportFactory}
    protocols = {"binary": TBinaryProtocolAcceleratedFactory, "compact": TCompactProtocolAcceleratedFactory}
    handler = Handler()
    with _listener(unix_socket) as listener:
        server = TThreadedServer(
            Predict.Processor(handler),
            _Listening(listener, context),
            transports[transport](),
            protocols[protocol](fallback=False),
            daemon=True,
        )
        with _running(lambda: _serve(server), listener):
            yield Service(0 if unix_socket else listener.getsockname()[1], handler)


def _serve(server: Any) -> None:
    with contextlib.suppress(_Stopped):
        server.serve()


def _listener(unix_socket: str | None = None) -> socket.socket:
    if unix_socket is None:
        return socket.create_server(("127.0.0.1", 0))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(unix_socket)
    listener.listen()
    return listener


@contextlib.contextmanager
def _running(target: Callable[[], None], listener: socket.socket) -> Iterator[None]:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)  # ends the accept in the thread
        thread.join(10)
        assert not thread.is_alive()


Script = Callable[[socket.socket], None]


@contextlib.contextmanager
def scripted(*scripts: Script) -> Iterator[int]:
    """A server whose n-th connection is treated by the n-th script (the last one for all that follow).

    A connection stays open until the block ends, unless its script closes it. Yields the port.
    """
    held: list[socket.socket] = []

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            script = scripts[min(len(held), len(scripts) - 1)]
            held.append(sock)
            with contextlib.suppress(OSError):
                script(sock)

    with _listener() as listener:
        try:
            with _running(lambda: serve(listener), listener):
                yield listener.getsockname()[1]
        finally:
            for sock in held:
                sock.close()


def silent(sock: socket.socket) -> None:
    """Accepts and says nothing."""


def hanging_up(sock: socket.socket) -> None:
    """Reads the request, closes."""
    sock.recv(65536)
    sock.close()


def saying(data: bytes, *, close: bool = False) -> Script:
    """Reads the request, answers with `data`."""

    def script(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(data)
        if close:
            sock.close()

    return script


def relaying_to(port: int, *, calls: int) -> Script:
    """Passes so many request-answer pairs on to a good server, then closes."""

    def script(sock: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", port)) as good:
            for _ in range(calls):
                good.sendall(sock.recv(65536))
                sock.sendall(good.recv(65536))
        sock.close()

    return script
