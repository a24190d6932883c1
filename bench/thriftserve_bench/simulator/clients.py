"""The clients of a simulation: threads that connect, call, and leave.

Pattern  -->  a thread each, let go at once: connect --> call --> … --> close  -->  PredictedCall
"""

from __future__ import annotations

from thriftserve_bench.records.experiments import Pattern
from thriftserve_bench.simulator.cores import Interpreter, Lock, Steps
from thriftserve_bench.simulator.setup import PredictedCall
from thriftserve_bench.simulator.wires import Connection
from thriftserve_bench.simulator.world import SimulatedServer, World


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
        """Lets all threads go."""
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
        """Threads that take turns on one connection, which the first of them opens and the last one closes."""
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
