"""The server types of the model, ours and Apache's.

backlog  -->  a thread or process for a connection | Apache's pools | our pools | TBatchingServer  -->  answers

TSimpleServer, TThreadedServer, TForkingServer and TNonblockingServer: ours and Apache's do the same in the same order
and differ in their costs. Pools: a thread or worker of Apache's serves one connection to its end, then the next; a
thread of ours serves a connection for a turn while others wait, a worker of ours holds many connections and runs one
request at a time. TBatchingServer: a front with one queue for all connections, whose requests go to any idle worker;
several requests in one run are not in the model, for the workloads have no such runs.
"""

from __future__ import annotations

from collections import deque

from simpy import Event

from thriftserve_bench.records.calls import APACHE
from thriftserve_bench.simulator.machine import Connection, Interpreter, Queue, Request, Steps
from thriftserve_bench.simulator.world import SimulatedServer, World


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
        self._readable: Queue[Connection] = Queue(world.env)
        self._tasks: Queue[Request] = Queue(world.env)
        self._answers: Queue[Request] = Queue(world.env)
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


#: How long one of our pool's threads waits for a connection's next request, and while others wait; how long it
#: stays with a busy connection while others wait.
LINGER_S, CROWDED_LINGER_S, TURN_S = 0.02, 0.001, 0.01


class ApacheThreadPool(SimulatedServer):
    """N threads, each with one connection at a time, to its end."""

    def start(self) -> None:
        world = self.world
        process = world.process(threads=True)
        self._clients: Queue[Connection] = Queue(world.env)
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
        self._ready: Queue[Connection] = Queue(world.env)
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
        """Serve a connection while it is busy, and while no other waits or its turn is not over."""
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
        """Watch it until something comes; if something is there already, put it at the end of the queue."""
        if connection.has_pending:
            self._ready.put(connection)
        else:
            connection.watcher = self._unpark

    def _unpark(self, connection: Connection) -> None:
        connection.watcher = None
        self._ready.put(connection)


class _PoolWorker:
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
        self._workers = [_PoolWorker(world) for _ in range(world.setup.workers)]
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
    def _wake(worker: _PoolWorker) -> None:
        if worker.woken is not None:
            worker.woken.succeed()
            worker.woken = None

    def _serve(self, worker: _PoolWorker) -> Steps:
        while True:
            if not (worker.readable or self._waiting):
                worker.woken = Event(self.world.env)
                yield worker.woken
            if self._waiting:
                yield from self._adopt(worker, self._waiting.popleft())
            if worker.readable:
                yield from self._one_message(worker, worker.readable.popleft())

    def _adopt(self, worker: _PoolWorker, connection: Connection) -> Steps:
        worker.connections += 1
        yield from worker.process.compute(self.world.costs.accept_s)
        yield from self._one_message(worker, connection)
        connection.watcher = lambda ready: self._on_request(worker, ready)
        if connection.has_pending:
            worker.readable.append(connection)

    def _on_request(self, worker: _PoolWorker, connection: Connection) -> None:
        worker.readable.append(connection)
        self._wake(worker)

    def _one_message(self, worker: _PoolWorker, connection: Connection) -> Steps:
        request = yield connection.receive()
        if request is None:
            worker.connections -= 1
        else:
            yield from self.world.answer(worker.process, request)


class Batching(SimulatedServer):
    """A front that holds every connection; N workers with so many slots each, a request in each slot."""

    def start(self) -> None:
        world, setup = self.world, self.world.setup
        self._front = world.process(threads=False)
        self._queue: Queue[Request] = Queue(world.env)
        for _ in range(setup.workers):
            worker = world.process(threads=setup.runs > 1)
            for _ in range(setup.runs):
                world.start(self._serve(worker))

    def connect(self, connection: Connection) -> None:
        self.world.start(self._accept(connection))

    def _accept(self, connection: Connection) -> Steps:
        yield from self._front.compute(self.world.costs.accept_s)
        connection.watcher = self._on_message
        if connection.has_pending:
            self._on_message(connection)

    def _on_message(self, connection: Connection) -> None:
        self.world.start(self._take_in(connection))

    def _take_in(self, connection: Connection) -> Steps:
        request = yield connection.receive()
        if request is not None:
            yield from self._front.compute(self.world.costs.front_s / 2)
            self._queue.put(request)

    def _serve(self, worker: Interpreter) -> Steps:
        """Serve requests in a slot: the front sends the next one once it has read the answer to the previous one."""
        world, costs = self.world, self.world.costs
        while True:
            request = yield self._queue.get()
            yield from world.serve(worker)
            yield from worker.compute(costs.server_call_s / 2)
            yield from self._front.compute(costs.front_s / 2)
            request.answered.succeed()
