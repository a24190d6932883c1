"""What the calculator and the greeter of the tests do.

arguments --> CalculatorHandler | GreeterHandler --> answer | exception
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from zlib import crc32

from thrift.protocol.TProtocol import TProtocolException
from thrift.Thrift import TApplicationException
from thrift.transport.TTransport import TTransportException

from services.gen.calculator.ttypes import DivisionByZero, Pair, Parcel, Tree
from thriftserve_client.wire.framing import FrameError
from thriftserve_client.wire.message_socket import ChannelClosed, ChannelTimeout

#: What `CalculatorHandler.fail` raises, by the name that it is asked for.
FAILURES: dict[str, Callable[[], BaseException]] = {
    "TTransportException": lambda: TTransportException(TTransportException.END_OF_FILE, "not this connection's"),
    "TProtocolException": lambda: TProtocolException(TProtocolException.BAD_VERSION, "not this connection's"),
    "TApplicationException": lambda: TApplicationException(TApplicationException.INTERNAL_ERROR, "on purpose"),
    "SystemExit": lambda: SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "MemoryError": MemoryError,
    "RecursionError": RecursionError,
    "OSError": lambda: OSError(9, "on purpose"),
    "EOFError": EOFError,
    "BrokenPipeError": lambda: BrokenPipeError(32, "on purpose"),
    "TimeoutError": lambda: TimeoutError("on purpose"),
    "ChannelTimeout": lambda: ChannelTimeout("not this connection's"),
    "ChannelClosed": lambda: ChannelClosed("not this connection's"),
    "FrameError": lambda: FrameError("not this connection's"),
    "ValueError": lambda: ValueError("on purpose"),
    "DivisionByZero": lambda: DivisionByZero("not declared by this method", 0),
}


class CalculatorHandler:
    """Implements `Calculator`."""

    def __init__(self) -> None:
        self._remembered: list[str] = []
        self._kept: list[tuple[memoryview, int]] = []

    def add(self, left: int, right: int) -> int:
        return left + right

    def total(self, pair: Pair) -> int:
        return int(pair.left + pair.right)

    def divide(self, dividend: int, divisor: int) -> int:
        if divisor == 0:
            raise DivisionByZero(f"{dividend} / 0", dividend)
        return dividend // divisor

    def echo(self, content: bytes) -> bytes:
        """Keeps views of the contents of the last calls, as a handler may, and fails where one has changed."""
        for array, checksum in self._kept:
            if crc32(array) != checksum:
                raise RuntimeError("a view of an earlier call's content has changed")
        self._kept = [*self._kept[-2:], (memoryview(content), crc32(content))]
        return content

    def mirror(self, tree: Tree) -> Tree:
        return tree

    def forward(self, parcel: Parcel) -> Parcel:
        return parcel

    def blob(self, size: int) -> bytes:
        return bytes(size)

    def fail(self, how: str) -> None:
        raise FAILURES[how]()

    def wait(self, ms: int) -> int:
        time.sleep(ms / 1000)
        return ms

    def remember(self, text: str) -> None:
        self._remembered.append(text)

    def remembered(self) -> list[str]:
        return self._remembered

    def process(self) -> int:
        return os.getpid()


class GreeterHandler:
    """Implements `Greeter`."""

    def greet(self, name: str) -> str:
        return f"Hello, {name}"
