"""TForkingServer: a child process for each connection, and a session in each child.

    accept --> fork --> child: load, serve the connection to its end, exit
    the forking process: no session, no tensor; it reaps, counts and signals its children, and has a thread
                         only while, and after, it rejects clients

Before the server is ready, a first child loads the models and exits. So it is not a client that finds out about models
that can't be loaded.
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
from thriftserve.servers.rejection import Rejector, queue_is_full
from thriftserve.supervisor import child
from thriftserve.supervisor.context import WorkerContext

log = logging.getLogger(__name__)

#: How often to check the kernel's queue while the number of children is at its limit.
_QUEUE_POLL_S = 0.1
_TICK_S = 1.0
_REASON_BYTES = 4096


class TForkingServer:
    """Forks for each connection, up to `max_children`. More wait in the kernel's queue, up to `max_queued`."""

    def __init__(self, server: ServerContext) -> None:
        self._server = server
        self._rows = server.context.board.rows_of_children(server.context.row)
        #: pid -> row of the scoreboard.
        self._children: dict[int, int] = {}
        self._rejector = Rejector(server)
        self._core_budget = CoreBudget(server.context.board)  # here, so that children don't count the cores again

    def prepare(self) -> None:
        """Load the models in a child, as a proof that they can be loaded.

        Raises:
            StartError: the error that the child met.
        """
        reader, writer = os.pipe()
        pid = child.fork(lambda: _try_load(self._server, writer))
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            reason = pipe.read(_REASON_BYTES).decode(errors="replace")
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code != ExitCode.OK:
            error = ModelLoadError(reason or f"the first child ended with {code} while it loaded the models")
            error.exit_code = ExitCode(code) if code in set(ExitCode) else ExitCode.MODEL_LOAD
            raise error
        self._server.mark_ready()

    def run(self) -> None:
        """Serve until drained, then wait for the children."""
        server = self._server
        acceptor = Acceptor(server)
        signal.signal(signal.SIGCHLD, lambda *_: server.wakeup.set())
        while not server.draining:
            self._wait(acceptor.sock)
            self._reap()
            self._accept(acceptor)
        pending = acceptor.accept_pending()
        self._drain_children()  # to make room for the pending connections
        for accepted in pending:
            while self._is_full():
                self._await_child()
            self._fork_for(*accepted)
        self._drain_children()
        while self._children:
            self._await_child()

    def drain(self) -> None:
        """Finish accepted requests, then end."""
        self._server.drain()

    def _is_full(self) -> bool:
        return len(self._children) >= self._server.settings.max_children

    def _wait(self, listening: socket.socket) -> None:
        poll = select.poll()
        poll.register(self._server.wakeup.fd, select.POLLIN)
        if self._is_full():
            poll.poll(_QUEUE_POLL_S * 1000)
        else:
            poll.register(listening, select.POLLIN)
            poll.poll(_TICK_S * 1000)
        self._server.wakeup.clear()

    def _accept(self, acceptor: Acceptor) -> None:
        with contextlib.suppress(OutOfDescriptors):
            while not self._is_full():
                accepted = acceptor.accept()
                if accepted is None:
                    return
                self._fork_for(*accepted)
            limit = self._server.settings.max_queued
            while accept_queue_length(acceptor.sock) > limit:
                accepted = acceptor.accept()
                if accepted is None:
                    return
                self._rejector.reject(*accepted, queue_is_full(limit))

    def _fork_for(self, sock: socket.socket, peer: str) -> None:
        board = self._server.context.board
        row = board.reserve(0, among=self._rows)
        with sock:
            try:
                pid = child.fork(lambda: self._run_child(sock, peer, row), on_term=self._drain_early)
            except OSError as error:
                log.error("%s: can't fork a child process for it: %s", peer, error)
                board.free(row)
                return
        self._children[pid] = row

    def _drain_children(self) -> None:
        for pid in self._children:
            os.kill(pid, signal.SIGTERM)

    def _await_child(self) -> None:
        self._server.wakeup.wait(_TICK_S)
        self._server.wakeup.clear()
        self._reap()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                row = self._children.pop(pid, None)
                if row is not None:
                    self._server.context.board.free(row, into=self._server.context.row)
                if status:
                    log.error("child %d ended with %d", pid, os.waitstatus_to_exitcode(status))

    # In the child

    def _run_child(self, sock: socket.socket, peer: str, row: int) -> int:
        server = self._own_server()
        board = server.context.board
        index = row - self._rows.start + 1
        board.occupy(row, os.getpid(), index, parent=os.getppid())
        server.context = WorkerContext(board, row, index, 1)
        connection = Connection(sock, peer, server, self._core_budget.available)

        def drain(number: int, frame: FrameType | None) -> None:
            server.drain()
            connection.drain()

        signal.signal(signal.SIGTERM, drain)
        try:
            server.load()
        except StartError as error:
            log.error("%s: %s", peer, error.message)
            connection.reject(error.message)
            return error.exit_code
        connection.set_processor(server.processor)
        server.mark_ready()
        server.context.counters.for_one_thread()
        server.context.counters.connection_opened()
        connection.serve()
        return ExitCode.OK

    def _drain_early(self) -> None:
        """Handle SIGTERM before the connection exists: it is then served by a draining server, which answers it."""
        self._server.draining = True

    def _own_server(self) -> ServerContext:
        """Return the context for this child: without the listening socket, with its own wake-up."""
        self._server.listener.sock.close()
        self._rejector.close_inherited()
        self._server.wakeup = Wakeup()
        return self._server


def _try_load(server: ServerContext, writer: int) -> int:
    try:
        server.load()
    except StartError as error:
        os.write(writer, error.message.encode()[:_REASON_BYTES])
        return error.exit_code
    return ExitCode.OK
