"""Server types whose threads or processes belong to a connection, ours and Apache's.

backlog  -->  TSimpleServer | TThreadedServer | TForkingServer | TNonblockingServer  -->  answers

Of these, ours and Apache's do the same things in the same order; what differs is in their costs. The pools,
where they differ, are in simulator_pools.
"""

from __future__ import annotations

from thriftserve_bench.records.calls import APACHE
from thriftserve_bench.simulator.cores import Interpreter, Steps
from thriftserve_bench.simulator.wires import Connection, Line, Request
from thriftserve_bench.simulator.world import SimulatedServer


class Simple(SimulatedServer):
    """One thread, one connection at a time, to its end."""

    def start(self) -> None:
        self.world.start(self._accept(self.world.process(threads=False)))

    def _accept(self, process: Interpreter) -> Steps:
        while True:
            connection = yield self.backlog.get()
            yield from process.compute(self.world.costs.accept_s)
            yield from self.world.serve_to_end(process, connection)


class Threaded(SimulatedServer):
    """A thread for each connection, all of them behind one lock, the accepting thread too."""

    def start(self) -> None:
        self.world.start(self._accept(self.world.process(threads=True)))

    def _accept(self, process: Interpreter) -> Steps:
        costs = self.world.costs
        while True:
            connection = yield self.backlog.get()
            yield from process.compute(costs.accept_s + costs.thread_start_s)
            self.world.start(self.world.serve_to_end(process, connection))


class Forking(SimulatedServer):
    """A child process for each connection; the parent forks one after the other."""

    def start(self) -> None:
        self.world.start(self._accept(self.world.process(threads=False)))

    def _accept(self, parent: Interpreter) -> Steps:
        costs = self.world.costs
        while True:
            connection = yield self.backlog.get()
            yield from parent.compute(costs.accept_s + costs.fork_s)
            self.world.start(self._child(connection))

    def _child(self, connection: Connection) -> Steps:
        costs = self.world.costs
        child = self.world.process(threads=False)
        yield from child.compute(costs.fork_child_s)
        yield from self.world.serve_to_end(child, connection)
        yield from child.compute(costs.fork_exit_s)


class Nonblocking(SimulatedServer):
    """One I/O thread reads all connections, N handlers run requests, all behind one lock.

    Apache's I/O thread also sends the answers; ours lets the handler do it.
    """

    def start(self) -> None:
        world = self.world
        process = world.process(threads=True)
        self._readable: Line[Connection] = Line(world.env)
        self._tasks: Line[Request] = Line(world.env)
        self._answers: Line[Request] = Line(world.env)
        world.start(self._accept(process))
        world.start(self._read(process))
        for _ in range(world.setup.threads):
            world.start(self._handle(process))
        if world.setup.side == APACHE:
            world.start(self._send(process))

    def _accept(self, process: Interpreter) -> Steps:
        while True:
            connection = yield self.backlog.get()
            yield from process.compute(self.world.costs.accept_s)
            connection.watcher = self._readable.put
            if connection.has_pending:
                self._readable.put(connection)

    def _read(self, process: Interpreter) -> Steps:
        while True:
            connection = yield self._readable.get()
            request = yield connection.receive()
            if request is not None:
                yield from process.compute(self.world.costs.io_turn_s)
                self._tasks.put(request)

    def _handle(self, process: Interpreter) -> Steps:
        apache = self.world.setup.side == APACHE
        while True:
            request = yield self._tasks.get()
            if apache:
                yield from self.world.serve(process)
                yield from process.compute(self.world.costs.server_call_s / 2)
                self._answers.put(request)
            else:
                yield from self.world.answer(process, request)

    def _send(self, process: Interpreter) -> Steps:
        while True:
            request = yield self._answers.get()
            yield from process.compute(self.world.costs.io_turn_s)
            request.answered.succeed()
