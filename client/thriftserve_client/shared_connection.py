"""Calls from any thread and forked process, one after the other, on a connection that is opened when needed.

call(method, timeout, values) --lock--> Connection (open, or new) --> result
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

from thriftserve_client.connection import Connection, ConnectionConfig, StaleConnection
from thriftserve_client.errors import CallTimeout, MessageTooLarge, ServerError


class _ProcessConnection:
    """The connection of one process, and the lock that orders its calls."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.connection: Connection | None = None

    def disconnect(self) -> None:
        """Close the connection; the next call opens another."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class SharedConnection:
    """A connection for all threads of a process. It is closed whenever a reply may still be on its way."""

    def __init__(self, config: ConnectionConfig) -> None:
        self.config = config
        self._process = _ProcessConnection()

    def call(self, method: str, timeout_s: float | None, *values: Any) -> Any:
        """Call a method of the contract and return its result; errors as for `Connection.call`.

        Args:
            method: its name in the IDL.
            timeout_s: limit that includes the wait for other threads' calls and connecting; None for no limit.
            values: its arguments, in the IDL's order.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        process = self._own_process()
        lock_timeout_s = -1 if timeout_s is None else min(max(timeout_s, 0), threading.TIMEOUT_MAX)
        if not process.lock.acquire(timeout=lock_timeout_s):
            raise CallTimeout(
                f"other threads' calls took the whole timeout of {timeout_s:g} s: one client per thread helps"
            )
        try:
            try:
                return self._call_once(process, deadline, method, values)
            except StaleConnection:
                return self._call_once(process, deadline, method, values)
        finally:
            process.lock.release()

    def close(self) -> None:
        """Close the connection after the call in progress; a later call opens a new one."""
        process = self._own_process()
        with process.lock:
            process.disconnect()

    def _own_process(self) -> _ProcessConnection:
        """Return this process's own connection and lock. A forked child must not use its parent's connection, nor wait
        for a lock that a thread of the parent held at the fork.
        """
        if self._process.pid != os.getpid():
            self._process = _ProcessConnection()
        return self._process

    def _call_once(
        self, process: _ProcessConnection, deadline: float | None, method: str, values: tuple[Any, ...]
    ) -> Any:
        try:
            if process.connection is None:
                left_s = None if deadline is None else max(deadline - time.monotonic(), 1e-3)
                process.connection = Connection(self.config, left_s)
            result = process.connection.call(method, deadline, *values)
        except (ServerError, MessageTooLarge):
            raise  # a complete reply, or nothing sent: the connection stays usable
        except BaseException:
            process.disconnect()
            raise
        if not process.connection.in_step:
            process.disconnect()
        return result
