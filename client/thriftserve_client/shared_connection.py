"""Calls from any thread and any process, one after the other, on a connection that is opened when needed.

call(method, time-out, values) --lock--> Connection (kept, or new) --> what the method returned
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from thriftserve_client.connection import Connection, Dialing, StaleConnection
from thriftserve_client.errors import CallTimeout, MessageTooLarge, ServerError


class _Line:
    """The connection of one process, and the lock that serialises its calls."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.connection: Connection | None = None

    def hang_up(self) -> None:
        """Closes the connection; the next call opens another."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class Caller:
    """Keeps one connection in step: it is closed whenever an answer may still be under way on it."""

    def __init__(self, dialing: Dialing) -> None:
        self.dialing = dialing
        self._line = _Line()

    def call(self, method: str, timeout_s: float | None, *values: Any) -> Any:
        """Calls a method of the contract; see `Connection.call` for what comes back and what is raised.

        Args:
            method: its name in the IDL.
            timeout_s: how long all may take, the wait for other threads' calls and connecting included.
            values: its arguments, in the IDL's order.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        line = self._own_line()
        patience = -1 if timeout_s is None else min(max(timeout_s, 0), threading.TIMEOUT_MAX)
        if not line.lock.acquire(timeout=patience):
            raise CallTimeout(f"other threads' calls took this client's whole {timeout_s:g} s; give threads their own")
        try:
            try:
                return self._call_once(line, deadline, method, values)
            except StaleConnection:
                return self._call_once(line, deadline, method, values)
        finally:
            line.lock.release()

    def close(self) -> None:
        """Closes the connection, after the call in progress; a later call opens a new one."""
        line = self._own_line()
        with line.lock:
            line.hang_up()

    def _own_line(self) -> _Line:
        """The line of this process. A forked child must not speak on its parent's connection, nor wait for a
        lock that a thread of the parent held at the fork.
        """
        if self._line.pid != os.getpid():
            self._line = _Line()
        return self._line

    def _call_once(self, line: _Line, deadline: float | None, method: str, values: tuple[Any, ...]) -> Any:
        try:
            if line.connection is None:
                left = None if deadline is None else max(deadline - time.monotonic(), 1e-3)
                line.connection = Connection(self.dialing, left)
            result = line.connection.call(method, deadline, *values)
        except (ServerError, MessageTooLarge):
            raise  # a whole answer, or nothing sent: the connection is in step
        except BaseException:
            line.hang_up()
            raise
        if not line.connection.in_step:
            line.hang_up()
        return result
