"""What is sent, encoded once before anything is measured.

payload name  -->  tensor  -->  frame of a predict call  -->  (the server)  -->  frame of its reply  -->  checked
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Any

import numpy as np
from thrift.protocol.TBinaryProtocol import TBinaryProtocolAccelerated
from thrift.Thrift import TMessageType
from thrift.transport.TTransport import TMemoryBuffer

from thriftserve_idl import Predict
from thriftserve_idl.ttypes import DataType, ModelSpec, PredictRequest, Tensor

LENGTH = Struct("!i")
_SEQID = 7


@dataclass(frozen=True)
class Payload:
    """One size of tensor."""

    name: str
    shape: tuple[int, ...]
    #: From here on, serving is moving bytes: half of Apache's CPU is the target.
    large: bool

    @property
    def tensor_bytes(self) -> int:
        """Bytes of its content: float32."""
        return 4 * int(np.prod(self.shape))


PAYLOADS = (
    Payload("tiny", (3,), large=False),
    Payload("602 KB", (1, 224, 224, 3), large=True),
    Payload("19 MB", (32, 224, 224, 3), large=True),
)


def payload(name: str) -> Payload:
    """The payload of that name."""
    return next(one for one in PAYLOADS if one.name == name)


def call_frame(request: PredictRequest) -> bytes:
    """A predict call as it goes over the wire: framed, binary."""
    return message_frame("predict", TMessageType.CALL, _SEQID, Predict.predict_args(request=request))


def message_frame(name: str, kind: int, seqid: int, struct: Any) -> bytes:
    """Any message as it goes over the wire: framed, binary."""
    buffer = TMemoryBuffer()
    protocol = TBinaryProtocolAccelerated(buffer, fallback=False)
    protocol.writeMessageBegin(name, kind, seqid)
    struct.write(protocol)
    protocol.writeMessageEnd()
    message: bytes = buffer.getvalue()
    return LENGTH.pack(len(message)) + message


def read_reply(message: bytes) -> Any:
    """The `predict_result` of a reply to such a call: `success` or `error` is set.

    Raises:
        ValueError: it is no reply to it.
    """
    protocol = TBinaryProtocolAccelerated(TMemoryBuffer(message), string_length_limit=len(message), fallback=False)
    name, kind, seqid = protocol.readMessageBegin()
    if (name, kind, seqid) != ("predict", TMessageType.REPLY, _SEQID):
        raise ValueError(f"not a reply to the call: {name!r}, type {kind}, number {seqid}")
    result = Predict.predict_result()
    result.read(protocol)
    return result


class Question:
    """A predict call's frame, and what its reply must be."""

    def __init__(self, asked: Payload) -> None:
        content = np.random.default_rng(1).random(asked.shape, np.float32).tobytes()
        self._tensor = Tensor(dtype=DataType.FLOAT, shape=list(asked.shape), content=content)
        self.frame = call_frame(PredictRequest(model_spec=ModelSpec(name="echo"), inputs={"x": self._tensor}))

    def check(self, message: bytes) -> None:
        """Decodes a reply and compares every byte of its tensor.

        Raises:
            ValueError: it is not the echo.
        """
        found = read_reply(message).success.outputs["x"]
        if (found.content, found.shape, found.dtype) != (self._tensor.content, self._tensor.shape, DataType.FLOAT):
            raise ValueError("the reply is not what was sent")
