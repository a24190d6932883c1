"""Clients of a batching server for tests: pipelined frames, checked closed loops.

frame(number, x) --Pipe.send--> server --Pipe.answers--> (number, y | error), in order
Loops(server, 16): clients that check every answer, until they are stopped
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import psutil
from thrift.protocol.TBinaryProtocol import TBinaryProtocolAccelerated
from thrift.Thrift import TApplicationException, TMessageType
from thrift.transport.TTransport import TMemoryBuffer

from documents import SUPPORT
from hosting import PATIENCE_S, Wire, eventually
from served import Served
from thriftserve_client import Client
from thriftserve_client.codec import from_tensor, to_tensor
from thriftserve_idl import Predict
from thriftserve_idl.ttypes import ModelSpec, PredictRequest, PredictResponse

_LENGTH = struct.Struct("!i")
HERE = str(SUPPORT)
#: What comes back: a response of any method, or an error.
Answer = Any


def steered(folder: Path, *arguments: str, ms: int = 0) -> Served:
    """A batching server of `batched_models.Steered`, whose runs take `ms` milliseconds."""
    model = f"m=python:batched_models:Steered?path={folder}&ms={ms}"
    return Served("--model", model, "--server-type", "TBatchingServer", *arguments, PYTHONPATH=HERE)


def fronts(server: Served) -> list[psutil.Process]:
    """Its front processes."""
    with server.client() as client:
        return [psutil.Process(each.pid) for each in client.server_status().workers if each.role == "front"]


def workers(server: Served) -> list[int]:
    """The pids of its workers; the front tells, so they may all be down."""
    with server.client() as client:
        return workers_by(client)


def workers_by(client: Client) -> list[int]:
    """The same, as a client that is there already hears it."""
    return [each.pid for each in client.server_status().workers if each.role == "worker"]


def frame(number: int, inputs: dict[str, Any] | None = None, *, model: str = "m", **fields: Any) -> bytes:
    """A framed predict whose sequence number is `number`, which is also x where no inputs are given."""
    tensors = {name: to_tensor(value) for name, value in (inputs or {"x": np.full((1, 3), number, np.float32)}).items()}
    request = PredictRequest(ModelSpec(model), tensors, **fields)
    return numbered(Wire().message(lambda client: client.send_predict(request), Predict), number)


def numbered(message: bytes, number: int) -> bytes:
    """A framed message with another sequence number."""
    at = 12 + _LENGTH.unpack_from(message, 8)[0]
    return message[:at] + _LENGTH.pack(number) + message[at + 4 :]


def told(do: str, number: int = 0, *, note: bool = False) -> dict[str, Any]:
    """Inputs of `batched_models.Steered`; `note`: it writes the number down when it runs."""
    inputs: dict[str, Any] = {"x": np.full((1, 3), number, np.float32)}
    if do:
        inputs["do"] = np.array(do.encode(), object)
    if note:
        inputs["id"] = np.int64(number)
    return inputs


class Pipe:
    """One connection on which many requests go out before their answers are read."""

    def __init__(self, server: Served) -> None:
        self.sock = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
        self._file = self.sock.makefile("rb")

    def __enter__(self) -> Pipe:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        self.sock.close()

    def send(self, *frames: bytes) -> None:
        """Sends frames."""
        self.sock.sendall(b"".join(frames))

    def answers(self, many: int) -> Iterator[tuple[int, Answer]]:
        """The next answers: sequence number, response or error."""
        for _ in range(many):
            message = self._file.read(_LENGTH.unpack(self._file.read(4))[0])
            yield decoded(message)


@contextlib.contextmanager
def busy(pipe: Pipe, folder: Path, gate: str) -> Any:
    """The only worker is busy in this block; its request is the first one of `pipe`, number 1."""
    pipe.send(frame(1, told(f"hold:{gate}", 1)))
    eventually((folder / f"{gate}.held").exists, "a busy worker")
    yield
    (folder / gate).touch()


def queued(server: Served) -> tuple[int, int]:
    """Requests and bytes that wait, as the status tells."""
    with server.client() as client:
        status = client.server_status()
    assert status.queued is not None and status.queued_bytes is not None
    return status.queued, status.queued_bytes


def decoded(message: bytes) -> tuple[int, Answer]:
    """The sequence number and the content of an answer, without its length."""
    protocol = TBinaryProtocolAccelerated(TMemoryBuffer(message), fallback=False)
    name, kind, number = protocol.readMessageBegin()
    if kind == TMessageType.EXCEPTION:
        fault = TApplicationException()
        fault.read(protocol)
        return number, fault
    result = getattr(Predict, f"{name}_result")()
    result.read(protocol)
    return number, result.error or result.success


def right(number: int, answer: Answer) -> bool:
    """Whether an answer is that of `frame(number)`."""
    assert isinstance(answer, PredictResponse), answer
    return bool((from_tensor(answer.outputs["y"]) == 2 * number + 1).all())


class Loops:
    """Clients in threads: each calls, checks its answer, and calls again; stopped and joined when the block ends.

    Attributes:
        done: answers that were right.
        failures: what else came.
        sizes: batch sizes seen.
    """

    def __init__(self, server: Served, clients: int, *, offset: float = 1.0) -> None:
        self._server = server
        self._offset = offset
        self._stop = threading.Event()
        self.done = [0] * clients
        self.failures: list[Any] = []
        self.sizes: set[int] = set()
        #: Rows of the runs that the last answers came from.
        self.recent: deque[int] = deque(maxlen=10 * clients)
        self._threads = [threading.Thread(target=self._loop, args=(number,)) for number in range(clients)]

    def __enter__(self) -> Loops:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop.set()
        self.join()

    def join(self) -> None:
        """Waits for the clients to end."""
        for thread in self._threads:
            thread.join()

    def go_on(self, many: int) -> None:
        """Waits for so many more answers, or for a failure."""
        seen = self.total
        eventually(lambda: self.total > seen + many or bool(self.failures), "more answers")

    @property
    def total(self) -> int:
        """Right answers so far."""
        return sum(self.done)

    def expected(self, x: Any) -> Any:
        """What the model makes of x."""
        return x * 2 + 1

    def _loop(self, number: int) -> None:
        try:
            with Client("127.0.0.1", self._server.port, timeout_s=PATIENCE_S) as client:
                for turn in count():
                    if self._stop.is_set():
                        return
                    self._call(client, number, np.full((1, 3), number * 100_000 + turn, np.float32))
        except Exception as error:
            self.failures.append(error)

    def _call(self, client: Client, number: int, x: Any) -> None:
        response = client.predict("m", {"x": x})
        assert response.timing is not None
        self.sizes.add(response.timing.batch_size)
        self.recent.append(response.timing.batch_size)
        if (response["y"] == self.expected(x)).all():
            self.done[number] += 1
        else:
            self.failures.append((number, x, response["y"]))
