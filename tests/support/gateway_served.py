"""A real `thriftserve gateway` in a process of its own, and HTTP requests to it.

::

    with gateway(server.port) as door:  -->  waits for the ready line  -->  door.post("/v1/…", {…})  -->  Answer
"""

from __future__ import annotations

import http.client
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from thriftserve_bench.processes import ServerProcess

COMMAND = [sys.executable, "-m", "thriftserve", "gateway", "--port", "0"]


@dataclass
class Answer:
    """An HTTP answer; header names in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON, NaN and Infinity included."""
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The message of an error."""
        told = self.json()
        assert list(told) == ["error"], told
        return str(told["error"])


class Door:
    """A gateway that runs, and one connection to it."""

    def __init__(self, process: ServerProcess) -> None:
        self.process = process
        self.host, self.port = process.host, process.port
        self._connection: http.client.HTTPConnection | None = None

    def request(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """One exchange; a body that is neither bytes nor text is sent as JSON."""
        if not isinstance(body, bytes | str | None):
            body = json.dumps(body)
        if isinstance(body, str):
            body = body.encode()
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        try:
            self._connection.request(method, path, body, dict(headers or {}))
            response = self._connection.getresponse()
            answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        except BaseException:
            self.hang_up()
            raise
        if answer.headers.get("connection") == "close":
            self.hang_up()
        return answer

    def get(self, path: str, **headers: str) -> Answer:
        """GET."""
        return self.request("GET", path, None, headers)

    def post(self, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Answer:
        """POST."""
        return self.request("POST", path, body, headers)

    def predict(self, model: str, body: Any, **headers: str) -> Answer:
        """POST to a model's :predict."""
        return self.post(f"/v1/models/{model}:predict", body, headers)

    def hang_up(self) -> None:
        """Closes the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@contextmanager
def gateway(*ports: int, flags: tuple[str, ...] = ()) -> Iterator[Door]:
    """A gateway before servers on ports of this machine."""
    backends = ",".join(f"127.0.0.1:{port}" for port in ports)
    with ServerProcess(["--backend", backends, *flags], command=COMMAND) as process:
        door = Door(process)
        try:
            yield door
        finally:
            door.hang_up()
