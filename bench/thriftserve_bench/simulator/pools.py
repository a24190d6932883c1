"""Server types with a pool: of threads, or of worker processes. Ours and Apache's differ in whom a connection binds.

backlog  -->  Apache's pools: a thread or worker serves one connection to its end, then takes the next
         -->  our thread pool: a connection has its thread for a turn while others wait
         -->  our process pool: a worker holds many connections and runs one request at a time
"""

from __future__ import annotations

from collections import deque

from simpy import Event

from thriftserve_bench.simulator.cores import Interpreter, Steps
from thriftserve_bench.simulator.wires import Connection, Line
from thriftserve_bench.simulator.world import SimulatedServer, World

#: How long one of our pool's threads waits for a connection's next request, and while others wait; how long it
#: keeps a busy connection while others wait.
LINGER_S, CROWDED_LINGER_S, TURN_S = 0.02, 0.001, 0.01


class ApacheThreadPool(SimulatedServer):
    """N threads, each with one connection at a time, to its end."""

    def start(self) -> None:
        world = self.world
        process = world.process(threads=True)
        self._clients: Line[Connection] = Line(world.env)
        world.start(self._accept(process))
        for _ in range(world.setup.threads):
            world.start(self._serve(process))

    def _accept(self, process: Interpreter) -> Steps:
        while True:
            connection = yield self.backlog.get()
            yield from process.compute(self.world.costs.accept_s)
            self._clients.put(connection)

    def _serve(self, process: Interpreter) -> Steps:
        while True:
            connection = yield self._clients.get()
            yield from self.world.serve_to_end(process, connection)


class ApacheProcessPool(SimulatedServer):
    """N processes that wait in accept(); each serves one connection at a time, to its end."""

    def start(self) -> None:
        for _ in range(self.world.setup.workers):
            self.world.start(self._serve(self.world.process(threads=False)))

    def _serve(self, worker: Interpreter) -> Steps:
        while True:
            connection = yield self.backlog.get()
            yield from worker.compute(self.world.costs.accept_s)
            yield from self.world.serve_to_end(worker, connection)


class ThreadPool(SimulatedServer):
    """N threads that take ready connections in turns; idle connections are parked and hold none."""

    def start(self) -> None:
        world = self.world
        process = world.process(threads=True)
        self._ready: Line[Connection] = Line(world.env)
        world.start(self._accept(process))
        for _ in range(world.setup.threads):
            world.start(self._serve(process))

    def _accept(self, process: Interpreter) -> Steps:
        while True:
            connection = yield self.backlog.get()
            yield from process.compute(self.world.costs.accept_s)
            self._ready.put(connection)

    def _serve(self, process: Interpreter) -> Steps:
        while True:
            connection = yield self._ready.get()
            yield from self._turn(process, connection)

    def _turn(self, process: Interpreter, connection: Connection) -> Steps:
        """Serves a connection while it is busy, and while nobody waits or it has not had its time."""
        env = self.world.env
        ends_at = env.now + TURN_S
        while not len(self._ready) or env.now < ends_at:
            receiving = connection.receive()
            if not receiving.triggered:
                yield receiving | env.timeout(CROWDED_LINGER_S if len(self._ready) else LINGER_S)
            if not receiving.triggered:
                connection.leave(receiving)
                break
            if receiving.value is None:
                return
            yield from self.world.answer(process, receiving.value)
        self._park(connection)

    def _park(self, connection: Connection) -> None:
        """Has it watched until something comes; what has come already puts it at the back of the queue."""
        if connection.has_pending:
            self._ready.put(connection)
        else:
            connection.watcher = self._unpark

    def _unpark(self, connection: Connection) -> None:
        connection.watcher = None
        self._ready.put(connection)


class _Worker:
    """A process of our pool: its connections, which of them are readable, whether it is idle."""

    def __init__(self, world: World) -> None:
        self.process = world.process(threads=False)
        self.connections = 0
        self.readable: deque[Connection] = deque()
        self.woken: Event | None = None


class ProcessPool(SimulatedServer):
    """N processes that poll: each runs one request at a time and holds any number of connections.

    A connection shows itself with its first request. An idle worker takes it; of several idle ones, the one with
    the fewest connections. It stays with that worker.
    """

    def start(self) -> None:
        world = self.world
        self._workers = [_Worker(world) for _ in range(world.setup.workers)]
        self._waiting: deque[Connection] = deque()
        for worker in self._workers:
            world.start(self._serve(worker))

    def connect(self, connection: Connection) -> None:
        connection.watcher = self._on_first_request

    def _on_first_request(self, connection: Connection) -> None:
        connection.watcher = None
        self._waiting.append(connection)
        idle = [worker for worker in self._workers if worker.woken is not None]
        if idle:
            self._wake(min(idle, key=lambda worker: worker.connections))

    @staticmethod
    def _wake(worker: _Worker) -> None:
        if worker.woken is not None:
            worker.woken.succeed()
            worker.woken = None

    def _serve(self, worker: _Worker) -> Steps:
        while True:
            if not (worker.readable or self._waiting):
                worker.woken = Event(self.world.env)
                yield worker.woken
            if self._waiting:
                yield from self._adopt(worker, self._waiting.popleft())
            if worker.readable:
                yield from self._one_message(worker, worker.readable.popleft())

    def _adopt(self, worker: _Worker, connection: Connection) -> Steps:
        worker.connections += 1
        yield from worker.process.compute(self.world.costs.accept_s)
        yield from self._one_message(worker, connection)
        connection.watcher = lambda ready: self._on_request(worker, ready)
        if connection.has_pending:
            worker.readable.append(connection)

    def _on_request(self, worker: _Worker, connection: Connection) -> None:
        worker.readable.append(connection)
        self._wake(worker)

    def _one_message(self, worker: _Worker, connection: Connection) -> Steps:
        request = yield connection.receive()
        if request is None:
            worker.connections -= 1
        else:
            yield from self.world.answer(worker.process, request)
