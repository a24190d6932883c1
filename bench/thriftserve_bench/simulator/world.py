"""The world of a simulation: its clock and machine, what all servers have in common, the clients.

connection  -->  backlog  -->  a thread of the server: answer(request) in its process's interpreter
"""

from __future__ import annotations

from simpy import Environment

from thriftserve_bench.records.experiments import Pattern
from thriftserve_bench.simulator.machine import (
    SWITCH_INTERVAL_S,
    Connection,
    Cores,
    Interpreter,
    Lock,
    Queue,
    Request,
    Steps,
)
from thriftserve_bench.simulator.setup import HOLD_GIL, SPIN, PredictedCall, Setup

_ONE_THREAD = float("inf")


class World:
    """A running simulation: its clock, its machine, its setup.

    Args:
        setup: server, work and machine.
        slice_s: how finely threads that compute take turns on an interpreter.
    """

    def __init__(self, setup: Setup, slice_s: float = SWITCH_INTERVAL_S) -> None:
        self.env = Environment()
        self.setup = setup
        self.costs = setup.costs
        self.cores = Cores(self.env, setup.cores)
        self._slice_s = slice_s
        asleep_too_long_s = 0.0 if setup.workload == SPIN else setup.costs.oversleep_s
        self._service_s = setup.service_s + (asleep_too_long_s if setup.service_s else 0.0)

    def process(self, *, threads: bool) -> Interpreter:
        """Return a new process of the server, with one thread or several."""
        return Interpreter(self.env, self.cores, self._slice_s if threads else _ONE_THREAD)

    def start(self, steps: Steps) -> None:
        """Start a thread."""
        self.env.process(steps)

    def answer(self, interpreter: Interpreter, request: Request) -> Steps:
        """Take a request in, serves it, sends the answer."""
        yield from self.serve(interpreter)
        yield from interpreter.compute(self.costs.server_call_s / 2)
        request.answered.succeed()

    def serve(self, interpreter: Interpreter) -> Steps:
        """Take a request in and serves it, without the answer."""
        before_s = self.costs.server_call_s / 2
        if self.setup.workload == HOLD_GIL:
            yield from interpreter.hold(before_s, self._service_s)
        elif self.setup.workload == SPIN:
            yield from interpreter.compute(before_s + self._service_s)
        else:
            yield from interpreter.compute(before_s)
            yield self.env.timeout(self._service_s)

    def serve_to_end(self, interpreter: Interpreter, connection: Connection) -> Steps:
        """Serve a connection until its client leaves: its thread does nothing else meanwhile."""
        while (request := (yield connection.receive())) is not None:
            yield from self.answer(interpreter, request)


class SimulatedServer:
    """A server: `connect` brings connections; `start` starts its threads."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.backlog: Queue[Connection] = Queue(world.env)

    def connect(self, connection: Connection) -> None:
        """Connect a client: it waits in the kernel's queue behind earlier ones."""
        self.backlog.put(connection)

    def start(self) -> None:
        """Start the server's threads."""
        raise NotImplementedError


class Clients:
    """All client threads of a pattern, in one process or each on a machine of its own."""

    def __init__(self, world: World, server: SimulatedServer, pattern: Pattern) -> None:
        self._world = world
        self._server = server
        self._pattern = pattern
        self._process = world.process(threads=True)
        self._shared = Connection(world.env)
        self._one_at_a_time = Lock(world.env)
        #: In the order of their ends.
        self.calls: list[PredictedCall] = []

    def start(self) -> None:
        """Start all client threads."""
        for number in range(self._pattern.threads):
            steps = self._share(number) if self._pattern.shared_client else self._own(number)
            self._world.start(steps)

    def _machine(self) -> Interpreter:
        here = self._world.setup.clients_here
        return self._process if here else Interpreter(self._world.env, None)

    def _own(self, number: int) -> Steps:
        machine, connection, costs = self._machine(), Connection(self._world.env), self._world.costs
        yield from machine.compute(costs.client_start_s)
        yield from machine.compute(costs.connect_s)
        self._server.connect(connection)
        for _ in range(self._pattern.calls_per_thread):
            yield from self._call(machine, connection, number)
        connection.close()

    def _share(self, number: int) -> Steps:
        """Take turns on one connection, which the first thread opens and the last one closes."""
        machine, costs = self._process, self._world.costs
        yield from machine.compute(costs.client_start_s)
        for turn in range(self._pattern.calls_per_thread):
            yield from self._one_at_a_time.take()
            if number == turn == 0:
                yield from machine.compute(costs.connect_s)
                self._server.connect(self._shared)
            yield from self._call(machine, self._shared, number)
            self._one_at_a_time.drop()
        if len(self.calls) == self._pattern.calls:
            self._shared.close()

    def _call(self, machine: Interpreter, connection: Connection, number: int) -> Steps:
        env, costs = self._world.env, self._world.costs
        start_s = env.now
        yield from machine.compute(costs.client_call_s / 2)
        yield connection.send().answered
        yield from machine.compute(costs.client_call_s / 2)
        self.calls.append(PredictedCall(number, start_s, env.now))
