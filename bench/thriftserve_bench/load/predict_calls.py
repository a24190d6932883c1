"""One predict call again and again, whose replies are answers or errors: what the sweep sends."""

from __future__ import annotations

from struct import Struct

from thrift.Thrift import TMessageType

from thriftserve_bench.load.connection import Connection
from thriftserve_bench.load.loops import Refused
from thriftserve_bench.workloads.messages import LENGTH, SEQID, read_reply
from thriftserve_idl.ttypes import ErrorCode, Timing

_SUCCESS = b"\x0c\x00\x00"  # the field "success" of a struct's type
#: What an answer's message begins with.
_HEAD = Struct("!II7sI3s").pack(0x80010000 | TMessageType.REPLY, 7, b"predict", SEQID, _SUCCESS)
_HEAD_PLACE = slice(LENGTH.size, LENGTH.size + len(_HEAD))
#: Every so many answers one is stored for its Timing; so many at most, and few of large ones.
_SAMPLE_EVERY = 16
_MAX_SAMPLES = 500
_LARGE_BYTES = 65536
_MAX_LARGE_SAMPLES = 4


class PredictCalls:
    """A predict call as a frame; its answers are not compared with anything.

    Args:
        frame: the call.
    """

    def __init__(self, frame: bytes) -> None:
        self._frame = frame
        self._answers = 0
        self._samples: list[bytes] = []

    def frame(self, _: Connection) -> bytes:
        """Return the call."""
        return self._frame

    def check(self, _: Connection, reply: memoryview) -> None:
        """Tell an answer from an error by its first bytes.

        Raises:
            Refused: it is an error.
            ValueError: it is no reply to a predict call.
        """
        if reply[_HEAD_PLACE] != _HEAD:
            result = read_reply(bytes(reply[LENGTH.size :]))
            if result.error is not None:
                raise Refused(ErrorCode(result.error.code).name, result.error.message)
        if self._answers % _SAMPLE_EVERY == 0:
            limit = _MAX_LARGE_SAMPLES if len(reply) > _LARGE_BYTES else _MAX_SAMPLES
            if len(self._samples) < limit:
                self._samples.append(bytes(reply[LENGTH.size :]))
        self._answers += 1

    def take_timings(self) -> list[Timing]:
        """Return what the sampled answers say of their time on the server, and forget the samples."""
        results = [read_reply(message).success for message in self._samples]
        self._samples = []
        return [result.timing for result in results if result.timing is not None]
