"""TForkingServer: a child process for each connection, a session in each child.

    accept --> fork --> child: load, serve the connection to its end, exit
    the forking process: no session, no tensor, no thread; it reaps, counts and signals its children

A first child loads the models and ends, before the server says that it is ready: models that can't be
loaded are found then, not by a client.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
from types import FrameType

from thriftserve.errors import ExitCode, ModelLoadError, StartError
from thriftserve.servers.acceptor import Acceptor, OutOfDescriptors, accept_queue_length
from thriftserve.servers.busy_poll import CoreBudget
from thriftserve.servers.connection import Connection
from thriftserve.servers.context import ServerContext, Wakeup
from thriftserve.supervisor import child
from thriftserve.supervisor.context import WorkerContext

log = logging.getLogger(__name__)

#: How often the length of the kernel's queue is looked at while every child is busy.
_LOOK_EVERY_S = 0.1
_TICK_S = 1.0
#: Children that refuse clients, at most, at once.
_REFUSING = 16
_REFUSAL_PATIENCE_S = 2
_REASON_BYTES = 4096


class TForkingServer:
    """Forks for each connection, up to `max_children`; more wait in the kernel's queue, up to `max_queued`."""

    def __init__(self, host: ServerContext) -> None:
        self._host = host
        self._slots = host.context.board.rows_of_children(host.context.row)
        self._children: dict[int, int] = {}  # pid: slot
        self._refusing: set[int] = set()
        self._room = CoreBudget(host.context.board)  # a child looks for itself; the cores are counted once

    def prepare(self) -> None:
        """Proves in a child that the models load.

        Raises:
            StartError: as the child met it.
        """
        reader, writer = os.pipe()
        pid = child.fork(lambda: _probe(self._host, writer))
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            reason = pipe.read(_REASON_BYTES).decode(errors="replace")
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code != ExitCode.OK:
            error = ModelLoadError(reason or f"the first child ended with {code} while it loaded the models")
            error.exit_code = ExitCode(code) if code in set(ExitCode) else ExitCode.MODEL_LOAD
            raise error
        self._host.begin()

    def run(self) -> None:
        """Serves until drained, then waits for the children."""
        host = self._host
        acceptor = Acceptor(host)
        signal.signal(signal.SIGCHLD, lambda *_: host.wakeup.set())
        while not host.draining:
            self._wait(acceptor.sock)
            self._reap()
            self._accept(acceptor)
        waiting = acceptor.last()
        self._drain_children()  # they make room for those that wait
        for taken in waiting:
            while self._full():
                self._await_child()
            self._fork_for(*taken)
        self._drain_children()
        while self._children:
            self._await_child()

    def _drain_children(self) -> None:
        for pid in self._children:
            os.kill(pid, signal.SIGTERM)

    def _await_child(self) -> None:
        self._host.wakeup.wait(_TICK_S)
        self._host.wakeup.clear()
        self._reap()

    def _full(self) -> bool:
        return len(self._children) >= self._host.settings.max_children

    def _wait(self, listening: socket.socket) -> None:
        poll = select.poll()
        poll.register(self._host.wakeup.fd, select.POLLIN)
        if self._full():
            poll.poll(_LOOK_EVERY_S * 1000)
        else:
            poll.register(listening, select.POLLIN)
            poll.poll(_TICK_S * 1000)
        self._host.wakeup.clear()

    def _accept(self, acceptor: Acceptor) -> None:
        with contextlib.suppress(OutOfDescriptors):
            while not self._full():
                taken = acceptor.take()
                if taken is None:
                    return
                self._fork_for(*taken)
            limit = self._host.settings.max_queued
            while len(self._refusing) < _REFUSING and accept_queue_length(acceptor.sock) > limit:
                taken = acceptor.take()
                if taken is None:
                    return
                self._fork_to_refuse(*taken, f"the queue is full: {limit} connections wait already")

    def _fork_for(self, sock: socket.socket, peer: str) -> None:
        board = self._host.context.board
        slot = board.reserve(0, among=self._slots)
        with sock:
            try:
                pid = child.fork(lambda: self._child(sock, peer, slot), on_term=self._drain_unborn)
            except OSError as error:
                log.error("%s: no child process for it: %s", peer, error)
                board.free(slot)
                return
        self._children[pid] = slot

    def _fork_to_refuse(self, sock: socket.socket, peer: str, reason: str) -> None:
        log.warning("%s: refused: %s", peer, reason)
        self._host.context.counters.add_refused()
        with sock, contextlib.suppress(OSError):
            self._refusing.add(child.fork(lambda: self._refuse(sock, peer, reason)))

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                self._refusing.discard(pid)
                slot = self._children.pop(pid, None)
                if slot is not None:
                    self._host.context.board.free(slot, into=self._host.context.row)
                if status:
                    log.error("child %d ended with %d", pid, os.waitstatus_to_exitcode(status))

    def drain(self) -> None:
        """Finishes what is in hand, then ends."""
        self._host.drain()

    # In the child

    def _drain_unborn(self) -> None:
        """SIGTERM before there is a connection: it is served with the host draining, so what was sent is answered."""
        self._host.draining = True

    def _child(self, sock: socket.socket, peer: str, slot: int) -> int:
        host = self._in_child()
        board = host.context.board
        index = slot - self._slots.start + 1
        board.occupy(slot, os.getpid(), index, parent=os.getppid())
        host.context = WorkerContext(board, slot, index, 1)
        connection = Connection(sock, peer, host, self._room.is_there)

        def drain(number: int, frame: FrameType | None) -> None:
            host.drain()
            connection.drain()

        signal.signal(signal.SIGTERM, drain)
        try:
            host.load()
        except StartError as error:
            log.error("%s: %s", peer, error.message)
            connection.refuse(error.message)
            return error.exit_code
        connection.use(host.processor)
        host.begin()
        host.context.counters.for_one_thread()
        host.context.counters.connection_opened()
        connection.serve()
        return ExitCode.OK

    def _refuse(self, sock: socket.socket, peer: str, reason: str) -> int:
        host = self._in_child()
        signal.alarm(3 * _REFUSAL_PATIENCE_S)
        Connection(sock, peer, host).refuse(reason)
        return ExitCode.OK

    def _in_child(self) -> ServerContext:
        """This process's own view of the host: no listening socket, a wake-up of its own."""
        self._host.listener.sock.close()
        self._host.wakeup = Wakeup()
        return self._host


def _probe(host: ServerContext, writer: int) -> int:
    try:
        host.load()
    except StartError as error:
        os.write(writer, error.message.encode()[:_REASON_BYTES])
        return error.exit_code
    return ExitCode.OK
