"""Binary messages without a version, as old clients and thriftrw write them: read, and answered in kind."""

from __future__ import annotations

import socket
import threading
from typing import Any

import numpy as np
import pytest
from thrift.protocol.TBinaryProtocol import TBinaryProtocol, TBinaryProtocolAccelerated
from thrift.Thrift import TApplicationException
from thrift.transport.TSocket import TSocket
from thrift.transport.TTransport import TBufferedTransport, TFramedTransport, TMemoryBuffer

from documents import SUPPORT
from hosting import FRAMED_ALONE, PATIENCE_S, TYPES, Hosted, Wire, client_on
from served import Served
from services.gen.calculator import Calculator
from services.gen.calculator.ttypes import DivisionByZero
from thriftserve_client.codec import to_tensor
from thriftserve_idl import Predict
from thriftserve_idl.ttypes import ModelSpec, PredictRequest

PLACES = [
    (each, cut) for each in TYPES for cut in ("framed", "buffered") if cut == "framed" or each not in FRAMED_ALONE
]


class StrictAboutKind(TBinaryProtocolAccelerated):
    """Writes messages without a version, and takes no others."""

    def __init__(self, trans: Any) -> None:
        super().__init__(trans, fallback=False)
        self.strictRead = self.strictWrite = False

    def readMessageBegin(self) -> Any:
        first = self.trans.readAll(4)
        assert first[0] == 0, f"the reply has a version: {first!r}"
        buffer = TMemoryBuffer(first + self.trans.readAll(int.from_bytes(first, "big") + 5))
        return TBinaryProtocol(buffer, strictRead=False).readMessageBegin()


def unversioned(sock: socket.socket, cut: str, service: Any = Calculator) -> Any:
    """A generated client on a socket."""
    transport = TSocket()
    transport.setHandle(sock)
    wrapped = (TFramedTransport if cut == "framed" else TBufferedTransport)(transport)
    return service.Client(StrictAboutKind(wrapped))


@pytest.mark.parametrize(("server_type", "cut"), PLACES)
def test_unversioned_clients(server_type: str, cut: str) -> None:
    """Results, declared errors, unknown methods and oneway calls; a strict client beside it gets its own kind."""
    wire = Wire(cut)
    with Hosted(server_type, wire=wire) as server, server.connect() as old, server.connect() as new:
        ours = unversioned(old, cut)
        for _ in range(3):
            assert ours.add(1, 2) == 3
            assert ours.echo(b"x" * 100_000) == b"x" * 100_000
            with pytest.raises(DivisionByZero):
                ours.divide(1, 0)
            ours.remember("text")
            with pytest.raises(TApplicationException, match="Internal error"):
                ours.fail("KeyError")
            if server_type in ("TSimpleServer", "TForkingServer"):
                continue
            assert client_on(new, wire).add(3, 4) == 7
        assert ours.add(5, 6) == 11


@pytest.mark.parametrize("server_type", TYPES)
def test_unversioned_refusals(server_type: str) -> None:
    """A request over a limit is refused in its own kind."""
    limits: dict[str, Any] = {"max_connections": 1} if server_type not in ("TSimpleServer", "TForkingServer") else {}
    with Hosted(server_type, workers=1, **limits) as server, server.connect() as first:
        assert unversioned(first, "framed").add(1, 2) == 3
        if limits:
            with server.connect() as second, pytest.raises(TApplicationException, match="limit"):
                unversioned(second, "framed").add(1, 2)


def test_both_kinds_in_one_batch() -> None:
    """Predicts of both kinds share batches, with and without templates; each is answered in its own kind."""
    with Served("--model", "any=python:served_models:Doubler", "--workers", "1", PYTHONPATH=str(SUPPORT)) as server:
        failures: list[BaseException] = []

        def call(number: int) -> None:
            try:
                with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as sock:
                    client = unversioned(sock, "framed", Predict) if number % 2 else client_on(sock, Wire(), Predict)
                    client.ping()
                    for step in range(100):
                        sent = to_tensor(np.array([number, step], np.float32))
                        reply = client.predict(PredictRequest(ModelSpec("any"), {"x": sent}))
                        content = reply.outputs["y"].content
                        assert np.frombuffer(content, np.float32).tolist() == [2 * number, 2 * step]
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
