"""What is asked again and again: one predict call, encoded once.

payload, model's metadata  -->  inputs of about that size  -->  frame  -->  (the server)  -->  replies told apart by
their first bytes: an answer, or an error of a kind
"""

from __future__ import annotations

from struct import Struct

from thrift.Thrift import TMessageType

from thriftserve_bench.workloads.messages import SEQID, read_reply
from thriftserve_bench.workloads.payloads import echo_frame, echo_tensor
from thriftserve_idl.ttypes import ErrorCode, Timing

_SUCCESS = b"\x0c\x00\x00"  # the field "success" of a struct's type
_HEAD = Struct("!II7sI3s").pack(0x80010000 | TMessageType.REPLY, 7, b"predict", SEQID, _SUCCESS)


class EchoCall:
    """A call of the echo service, and the check of its reply.

    Args:
        payload: a name of PAYLOADS.
    """

    def __init__(self, payload: str) -> None:
        self.frame = echo_frame(payload)
        self._tensor = echo_tensor(payload)

    def check(self, message: bytes) -> None:
        """Decode a reply and compare every byte of its tensor.

        Raises:
            ValueError: it is not the echo.
        """
        if read_reply(message).success.outputs["x"] != self._tensor:
            raise ValueError("the reply is not what was sent")


class Refused(Exception):
    """The server answered with an error; the message begins with its kind."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        #: The name of an ErrorCode.
        self.kind = kind


class FrameQuestion:
    """A call as a frame; its replies are answers or errors, and are not compared with anything."""

    #: What an answer's message begins with.
    head = _HEAD

    def __init__(self, frame: bytes) -> None:
        self.frame = frame

    def check(self, message: bytes) -> None:
        """Looks at a whole reply.

        Raises:
            Refused: it is an error.
            ValueError: it is no reply to a predict call.
        """
        result = read_reply(message)
        if result.error is not None:
            raise Refused(ErrorCode(result.error.code).name, result.error.message)


def timing_of(message: bytes) -> Timing | None:
    """Where the server says an answer's time went; None where it says nothing."""
    timing: Timing | None = read_reply(message).success.timing
    return timing
