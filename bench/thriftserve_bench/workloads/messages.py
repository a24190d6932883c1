"""Messages of the Predict contract as bytes: framed, binary.

request struct  -->  frame  -->  (the server)  -->  frame of the reply  -->  result struct
"""

from __future__ import annotations

from struct import Struct
from typing import Any

from thrift.protocol.TBinaryProtocol import TBinaryProtocolAccelerated
from thrift.Thrift import TMessageType
from thrift.transport.TTransport import TMemoryBuffer

from thriftserve_idl import Predict
from thriftserve_idl.ttypes import ClassifyRequest, PredictRequest

#: The length before each message.
LENGTH = Struct("!i")
SEQID = 7


def predict_frame(request: PredictRequest) -> bytes:
    """Encode a predict call."""
    return message_frame("predict", TMessageType.CALL, Predict.predict_args(request=request))


def classify_frame(request: ClassifyRequest) -> bytes:
    """Encode a classify call."""
    return message_frame("classify", TMessageType.CALL, Predict.classify_args(request=request))


def message_frame(name: str, kind: int, struct: Any) -> bytes:
    """Encode any message."""
    buffer = TMemoryBuffer()
    protocol = TBinaryProtocolAccelerated(buffer, fallback=False)
    protocol.writeMessageBegin(name, kind, SEQID)
    struct.write(protocol)
    protocol.writeMessageEnd()
    message: bytes = buffer.getvalue()
    return LENGTH.pack(len(message)) + message


def read_reply(message: bytes, method: str = "predict") -> Any:
    """Decode the reply to such a call, without its length.

    Returns:
        The method's result struct: `success` or `error` is set.

    Raises:
        ValueError: the message is no reply to the call.
    """
    protocol = TBinaryProtocolAccelerated(TMemoryBuffer(message), string_length_limit=len(message), fallback=False)
    name, kind, seqid = protocol.readMessageBegin()
    if (name, kind, seqid) != (method, TMessageType.REPLY, SEQID):
        raise ValueError(f"not a reply to {method}: {name!r}, type {kind}, number {seqid}")
    result: Any = Predict.predict_result() if method == "predict" else Predict.classify_result()
    result.read(protocol)
    return result


def answer_by(processor: Any, frame: bytes) -> bytes:
    """Return the frame with which a Thrift processor answers a framed call."""
    answer = TMemoryBuffer()
    call = TBinaryProtocolAccelerated(TMemoryBuffer(frame[LENGTH.size :]), fallback=False)
    processor.process(call, TBinaryProtocolAccelerated(answer, fallback=False))
    message: bytes = answer.getvalue()
    return LENGTH.pack(len(message)) + message
