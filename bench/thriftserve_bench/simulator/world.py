"""What every simulated server does the same way, and what it does it in.

connection  -->  backlog  -->  a thread of the server: answer(request) in its process's interpreter
"""

from __future__ import annotations

from simpy import Environment

from thriftserve_bench.simulator.cores import SWITCH_INTERVAL_S, Cores, Interpreter, Steps
from thriftserve_bench.simulator.setup import HOLD_GIL, SPIN, Setup
from thriftserve_bench.simulator.wires import Connection, Line, Request

_ONE_THREAD = float("inf")


class World:
    """A simulation under way: its clock, its machine, what is to be simulated.

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
        """A process of the server, of one thread or of several."""
        return Interpreter(self.env, self.cores, self._slice_s if threads else _ONE_THREAD)

    def start(self, steps: Steps) -> None:
        """Has a thread begin."""
        self.env.process(steps)

    def answer(self, interpreter: Interpreter, request: Request) -> Steps:
        """Takes a request in, serves it, sends the answer."""
        yield from self.serve(interpreter)
        yield from interpreter.compute(self.costs.server_call_s / 2)
        request.answered.succeed()

    def serve(self, interpreter: Interpreter) -> Steps:
        """Takes a request in and serves it, without the answer."""
        before_s = self.costs.server_call_s / 2
        if self.setup.workload == HOLD_GIL:
            yield from interpreter.hold(before_s, self._service_s)
        elif self.setup.workload == SPIN:
            yield from interpreter.compute(before_s + self._service_s)
        else:
            yield from interpreter.compute(before_s)
            yield self.env.timeout(self._service_s)

    def serve_to_end(self, interpreter: Interpreter, connection: Connection) -> Steps:
        """Serves a connection until its client leaves: its thread does nothing else meanwhile."""
        while (request := (yield connection.receive())) is not None:
            yield from self.answer(interpreter, request)


class SimulatedServer:
    """A server: connections come in by `connect`; `start` sets its threads going."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.backlog: Line[Connection] = Line(world.env)

    def connect(self, connection: Connection) -> None:
        """A client connects: it waits in the kernel's queue, behind those who came before."""
        self.backlog.put(connection)

    def start(self) -> None:
        """Sets the server's threads going."""
        raise NotImplementedError
