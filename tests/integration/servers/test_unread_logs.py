"""A server whose stderr or stdout nobody reads, or that has none: it serves and stops all the same."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from documents import SUPPORT
from hosting import PATIENCE_S, eventually
from served import command, environment
from thriftserve.errors import ExitCode
from thriftserve.log_output import MAX_BUFFER_BYTES, LogOutput
from thriftserve.settings import SERVER_TYPES
from thriftserve_client import Client

X = np.arange(3, dtype=np.float32)
#: Bytes of lines for stderr that are more than a pipe and the buffer hold.
LINES = 20_000


@contextlib.contextmanager
def started(path: Path, server_type: str, *arguments: str, **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A server on a Unix socket, with these standard streams."""
    model = "m=python:fault_models:Ledger?path=/dev/null"
    process = subprocess.Popen(
        command("serve", "--unix-socket", str(path), "--model", model, "--server-type", server_type, *arguments),
        env=environment(PYTHONPATH=str(SUPPORT)),
        **streams,
    )
    try:
        with Client(unix_socket=str(path)) as client:
            client.wait_for_ready(PATIENCE_S)
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == ExitCode.OK
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def works(path: Path) -> bool:
    """Whether it answers ping and predict."""
    with Client(unix_socket=str(path), timeout_s=PATIENCE_S) as client:
        client.ping()
        return bool((client.predict("m", {"x": X})["x"] == X).all())


@pytest.mark.parametrize("server_type", SERVER_TYPES)
def test_nobody_reads_stderr(server_type: str, tmp_path: Path) -> None:
    """With a full pipe for stderr a server starts, serves bad and good clients, reloads and stops."""
    path = tmp_path / "socket"
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"\n" * 4096)
    os.set_blocking(writing, True)
    with started(path, server_type, "--log-level", "debug", stdout=subprocess.PIPE, stderr=writing) as process:
        for _ in range(500):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(path))
                sock.sendall(b"garbage!")
        assert works(path)
        process.send_signal(signal.SIGUSR1)
        assert works(path)
    assert os.get_blocking(writing), "the pipe's other users are left alone"
    os.close(reading)
    os.close(writing)


def test_what_is_printed_never_waits(tmp_path: Path) -> None:
    """A model that prints more than a pipe holds, to a stdout and stderr that nobody reads, answers."""
    path = tmp_path / "socket"
    model = f"chatty=python:fault_models:Chatty?lines={LINES}"
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started(path, "TBatchingServer", "--model", model, **streams) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"thriftserve ready ")
        with Client(unix_socket=str(path), timeout_s=PATIENCE_S) as client:
            for _ in range(3):
                assert (client.predict("chatty", {"x": X})["x"] == X).all()


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize("how", ["closed", "/dev/full"])
def test_no_stream(stream: str, how: str, tmp_path: Path) -> None:
    """A server with a closed stream, or one that is full, serves all the same; what it can tell, it tells once."""
    path = tmp_path / "socket"
    fd = {"stdout": 1, "stderr": 2}[stream]
    with (tmp_path / "log").open("w+b") as log, open("/dev/full", "w") as full:
        streams: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": log}
        if how == "closed":
            streams["preexec_fn"] = lambda: os.close(fd)
        else:
            streams[stream] = full
        with started(path, "TBatchingServer", **streams):
            assert works(path)
        if stream == "stdout":
            log.seek(0)
            told_once = {"closed": "closed when this process was started: stdout", "/dev/full": "the ready line ("}[how]
            assert log.read().decode().count(told_once) == 1


def test_dropped_lines_are_counted() -> None:
    """What a reader takes late comes late; what did not fit is counted, once there is room."""
    reading, writing = os.pipe()
    output = LogOutput(writing, lambda count: f"{count} dropped\n")
    line = "x" * 999 + "\n"
    for _ in range(2 * MAX_BUFFER_BYTES // len(line)):
        output.write(line)
    dropped = output.dropped
    assert dropped > 0
    seen = b""

    def told() -> bool:
        nonlocal seen
        seen += os.read(reading, 65536)
        return b"dropped" in seen

    eventually(told, "the number of dropped lines")
    assert seen.endswith(f"{dropped} dropped\n".encode())
    assert seen.count(line.encode()) == 2 * MAX_BUFFER_BYTES // len(line) - dropped
    os.close(reading)
    os.close(writing)
