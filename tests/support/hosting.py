"""A test service on any server type, in its own process.

    with Hosted("TThreadedServer") as server:  -->  ready line  -->  server.client() | server.connect()  -->  SIGTERM

`Wire` is the client's side: Apache's library, nothing of this project.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import psutil
import pytest
from thrift.protocol.TBinaryProtocol import TBinaryProtocolAccelerated
from thrift.protocol.TCompactProtocol import TCompactProtocolAccelerated
from thrift.transport.TSocket import TSocket
from thrift.transport.TTransport import TBufferedTransport, TFramedTransport, TMemoryBuffer

from documents import SUPPORT
from services.gen.calculator import Calculator

TYPES = (
    "TSimpleServer",
    "TThreadedServer",
    "TThreadPoolServer",
    "TNonblockingServer",
    "TForkingServer",
    "TProcessPoolServer",
    "TBatchingServer",
)
#: Types that serve several clients at once. TSimpleServer serves one after the other.
SEVERAL_AT_ONCE = TYPES[1:]
FRAMED_ALONE = ("TNonblockingServer", "TBatchingServer")
#: Types that serve an active client beside any number of idle ones.
MANY_IDLE = ("TThreadedServer", "TThreadPoolServer", "TNonblockingServer", "TProcessPoolServer", "TBatchingServer")
TESTS = SUPPORT
#: No response takes this long, even on a busy machine.
PATIENCE_S = 30.0
_READY = re.compile(r"thriftserve ready (?:host=(\S+) port=(\d+)|unix_socket=(\S+)) server_type=(\w+) .*pid=(\d+)\n")
#: What a server logs after an error that its code did not foresee, even if every client was served.
_SURPRISED = re.compile(r"ERROR \S+: closed$|Exception (in|ignored)|worker \d+ failed|ended (by|with) ", re.MULTILINE)
_PROTOCOLS = {"binary": TBinaryProtocolAccelerated, "compact": TCompactProtocolAccelerated}
_TRANSPORTS = {"framed": TFramedTransport, "buffered": TBufferedTransport}


@dataclass(frozen=True)
class Wire:
    """How messages are cut and encoded."""

    transport: str = "framed"
    protocol: str = "binary"

    def __str__(self) -> str:
        return f"{self.transport}-{self.protocol}"

    def message(self, write: Callable[[Any], None], service: Any = Calculator) -> bytes:
        """Return the bytes that `write` sends through a client of `service`."""
        buffer = TMemoryBuffer()
        write(service.Client(self.protocol_over(_TRANSPORTS[self.transport](buffer))))
        return bytes(buffer.getvalue())

    def protocol_over(self, transport: Any) -> Any:
        """Return Apache's accelerated protocol over a transport."""
        return _PROTOCOLS[self.protocol](transport, fallback=False)


WIRES = tuple(Wire(transport, protocol) for transport in _TRANSPORTS for protocol in _PROTOCOLS)


def places(*wires: Wire) -> list[Any]:
    """Return parameters: every server type with each of the wires that it supports."""
    return [
        pytest.param(server_type, wire, id=f"{server_type}-{wire}")
        for server_type in TYPES
        for wire in wires
        if server_type not in FRAMED_ALONE or wire.transport == "framed"
    ]


def add(left: int, right: int, wire: Wire | None = None) -> bytes:
    """Return the message of a call of `add`."""
    return (wire or Wire()).message(lambda client: client.send_add(left, right))


class Hosted:
    """A server of a given type. It is ready when the `with` block begins.

    Args:
        server_type: one of `TYPES`.
        service: a name that `services.host.factory_of` knows.
        wire: transport and protocol.
        open_files: the limit of open files in the server.
        refuses_with_busy: whether the service has a refusal.
        settings: fields of `HostSettings`.
    """

    def __init__(
        self,
        server_type: str,
        service: str = "calculator",
        *,
        wire: Wire | None = None,
        open_files: int = 0,
        refuses_with_busy: bool = False,
        **settings: Any,
    ) -> None:
        self.server_type = server_type
        self.wire = wire or Wire()
        defaults = {
            "transport": self.wire.transport,
            "protocol": self.wire.protocol,
            "port": 0,
            "workers": 2,
            "threads": 4,
        }
        self._arguments = {
            "service": service,
            "open_files": open_files,
            "refuses_with_busy": refuses_with_busy,
            "settings": defaults | {"server_type": server_type} | settings,
        }
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # closed by __exit__
        self.process: subprocess.Popen[str]

    def __enter__(self) -> Hosted:
        self.process = self.start()
        assert self.process.stdout is not None
        line = self.process.stdout.readline() if self._has_output() else ""
        ready = _READY.fullmatch(line)
        if ready is None:
            self._end()
            raise AssertionError(f"not ready: {line!r}, exit code {self.process.returncode}\n{self.log()}")
        self.family = socket.AF_INET6 if ":" in (ready[1] or "") else socket.AF_INET
        self.address: Any = (ready[1], int(ready[2])) if ready[2] else ready[3]
        if ready[3]:
            self.family = socket.AF_UNIX
        return self

    def start(self) -> subprocess.Popen[str]:
        """Start the server's process, and return it without waiting."""
        return subprocess.Popen(
            [sys.executable, "-m", "services.host", json.dumps(self._arguments)],
            env=os.environ | {"PYTHONPATH": str(TESTS)},
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def _has_output(self) -> bool:
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout], [], [], PATIENCE_S)[0])

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            code = self.stop() if kind is None else 0
        finally:
            self._end()
            log = self.log()
            self._log.close()
        assert code == 0, f"exit code {code}\n{log}"
        assert kind is not None or not _SURPRISED.search(log), log

    def fails(self) -> tuple[int, str]:
        """Start a server that must not become ready. Return its exit code and its log."""
        self.process = self.start()
        out, _ = self.process.communicate(timeout=PATIENCE_S)
        assert out == ""
        with self._log:
            return self.process.returncode, self.log()

    def stop(self) -> int:
        """Drain the server. Return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()

    def log(self) -> str:
        """Return what it has written to stderr."""
        return os.pread(self._log.fileno(), 1 << 26, 0).decode()

    def cpu_s(self) -> float:
        """Return the CPU time that it and its children have used, seconds."""
        parent = psutil.Process(self.process.pid)
        return sum(map(_cpu_s, [parent, *parent.children(recursive=True)]))

    def workers(self) -> set[int]:
        """Return its worker processes. TForkingServer's is the one that forks for connections."""
        return {child.pid for child in psutil.Process(self.process.pid).children()}

    def connect(self, tls: ssl.SSLContext | None = None) -> socket.socket:
        """Return a new connection."""
        sock = socket.socket(self.family, socket.SOCK_STREAM)
        sock.settimeout(PATIENCE_S)
        try:
            sock.connect(self.address)
            return tls.wrap_socket(sock, server_hostname="localhost") if tls else sock
        except BaseException:
            sock.close()
            raise

    def connect_with_small_window(self) -> socket.socket:
        """Return a new connection whose receive buffer is small."""
        sock = socket.socket(self.family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(PATIENCE_S)
        sock.connect(self.address)
        return sock

    @contextlib.contextmanager
    def client(self, service: Any = Calculator, wire: Wire | None = None, **options: Any) -> Iterator[Any]:
        """A client of Apache's library on a new connection. `wrap` wraps its protocol."""
        with self.connect(options.get("tls")) as sock:
            yield client_on(sock, wire or self.wire, service, options.get("wrap", lambda protocol: protocol))

    @property
    def surprised(self) -> bool:
        """Whether its log has an error that its code did not foresee, or the death of a worker."""
        return bool(_SURPRISED.search(self.log()))

    def serves(self) -> None:
        """Assert that a well-behaved client gets the right responses."""
        with self.client() as client:
            assert client.add(20, 22) == 42
            assert client.echo(b"x" * 100_000) == b"x" * 100_000


def client_on(sock: socket.socket, wire: Wire, service: Any = Calculator, wrap: Any = lambda protocol: protocol) -> Any:
    """Return Apache's client on a connected socket."""
    carrier = TSocket()
    carrier.setHandle(sock)
    return service.Client(wrap(wire.protocol_over(_TRANSPORTS[wire.transport](carrier))))


def _cpu_s(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def read_to_end(sock: socket.socket) -> bytes:
    """Return everything until the server closes or resets the connection."""
    pieces = []
    with contextlib.suppress(ConnectionError):
        while piece := sock.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)


def eventually(condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Wait until a condition holds that has no event to wait for; fail with `what` if it does not in time."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, f"never: {what}"
        time.sleep(0.01)
