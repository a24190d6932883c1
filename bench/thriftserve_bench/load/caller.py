"""One connection of the load generator: the frame out, the reply in, no more Python than that.

frame --send--> socket --recv_into--> one buffer, used again for every reply  -->  checked
"""

from __future__ import annotations

import socket
from struct import Struct
from typing import Protocol

from thriftserve_bench.workloads.messages import LENGTH

#: Every so many replies a piece of the content is compared; the length always is.
SAMPLE_EVERY = 16
_SAMPLE_BYTES = 64
_SAMPLE_STEP = 7919
_TIMEVAL = Struct("@ll")


class Asked(Protocol):
    """What a connection sends again and again."""

    @property
    def frame(self) -> bytes:
        """The call, framed."""

    def check(self, message: bytes) -> None:
        """Looks at a whole reply.

        Raises:
            ValueError: it is not the right one.
        """


class WrongReply(Exception):
    """A reply came that is not the echo."""


class Caller:
    """A connection that sends one question again and again.

    Args:
        port: on the loopback interface.
        blocking: `send` and `receive` do all there is to do; else as much as the socket allows now.
        timeout_s: how long a blocking call waits.
        looks: `receive` takes what is there, though `send` blocks.
    """

    def __init__(self, port: int, question: Asked, *, blocking: bool, timeout_s: float, looks: bool = False) -> None:
        self._flags = socket.MSG_DONTWAIT if looks else 0
        self.began_ns = 0
        self._frame = memoryview(question.frame)
        self._left = self._frame[:0]
        self._filled = 0
        self._calls = 0
        self.sock = socket.create_connection(("127.0.0.1", port), timeout_s)
        try:
            self._first_call(question)
            if blocking:
                # Python's own timeouts cost a system call for each call.
                self.sock.settimeout(None)
                limit = _TIMEVAL.pack(*divmod(int(timeout_s * 1e6), 1_000_000))
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            else:
                self.sock.setblocking(False)
        except BaseException:
            self.sock.close()
            raise

    def _first_call(self, question: Asked) -> None:
        """One call outside the measurement: its reply is checked whole, and is what later ones are compared with."""
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.sendall(self._frame)
        with self.sock.makefile("rb") as replies:
            header = replies.read(LENGTH.size)
            if len(header) < LENGTH.size:
                raise ConnectionError("closed before the first reply")
            message = replies.read(LENGTH.unpack(header)[0])
        if len(message) < LENGTH.unpack(header)[0]:
            raise ConnectionError("closed within the first reply")
        try:
            question.check(message)
        except Exception as error:  # a reply that can't even be decoded fails in many ways
            raise WrongReply(f"{type(error).__name__}: {error}") from error
        self._expected = header + message
        self._reply = bytearray(len(self._expected))
        self._view = memoryview(self._reply)

    def send(self) -> bool:
        """Begins a call, or goes on with sending; true once the question is out."""
        left = self._left or self._frame
        while left:
            try:
                left = left[self.sock.send(left) :]
            except BlockingIOError:
                self._left = left
                return False
        self._left = left
        return True

    def receive(self) -> bool:
        """Goes on with receiving; true once the reply is there and right.

        Raises:
            WrongReply: it has another length or content.
            OSError: the connection broke or was closed; for a blocking caller also: nothing came in time.
        """
        view = self._view
        filled = self._filled
        while filled < len(view):
            try:
                got = self.sock.recv_into(view[filled:] if filled else view, 0, self._flags)
            except BlockingIOError:
                self._filled = filled
                return False
            if not got:
                raise ConnectionError("closed before a reply")
            filled += got
        self._filled = 0
        self._check()
        return True

    def _check(self) -> None:
        self._calls += 1
        end = LENGTH.size
        if self._reply[:end] != self._expected[:end]:
            raise WrongReply("a reply of another length")
        if self._calls % SAMPLE_EVERY == 0:
            at = self._calls * _SAMPLE_STEP % len(self._expected)
            if self._reply[at : at + _SAMPLE_BYTES] != self._expected[at : at + _SAMPLE_BYTES]:
                raise WrongReply(f"a reply of other content at byte {at}")

    def close(self) -> None:
        """Closes the socket."""
        self.sock.close()
