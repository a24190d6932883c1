"""TBatchingServer in the model: a front, one queue, workers that take what waits.

connection --front--> request --one queue--> whichever worker idles --front--> answer

The front is one process and no more than a queue: a connection binds nobody, so a request waits only while every
worker has one in hand. Putting several requests into one run is not in the model: the workloads have no such runs.
"""

from __future__ import annotations

from thriftserve_bench.simulator.cores import Interpreter, Steps
from thriftserve_bench.simulator.wires import Connection, Line, Request
from thriftserve_bench.simulator.world import SimulatedServer


class Batching(SimulatedServer):
    """A front that holds every connection; N workers with so many slots each, a request in each slot."""

    def start(self) -> None:
        world, setup = self.world, self.world.setup
        self._front = world.process(threads=False)
        self._queue: Line[Request] = Line(world.env)
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
        """A slot: the front hands it another request once it has read the answer to the one before."""
        world, costs = self.world, self.world.costs
        while True:
            request = yield self._queue.get()
            yield from world.serve(worker)
            yield from worker.compute(costs.server_call_s / 2)
            yield from self._front.compute(costs.front_s / 2)
            request.answered.succeed()
