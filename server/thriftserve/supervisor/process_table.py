"""The running processes of a server: spawned for a slot, read, signalled, reaped.

spawn(slot) --> forked here | requested from its group's fork server --> Worker, its report pipe in the selector
the kernel --ended_children()--> (pid, exit code) --> get(pid) --> remove()
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence

from thriftserve.supervisor import child
from thriftserve.supervisor.fork_server import ForkServer
from thriftserve.supervisor.scoreboard import BoardCell, Scoreboard
from thriftserve.supervisor.worker_group import ProcessState, SpawnRequest, Worker, WorkerGroup, WorkerSlot, run_worker

log = logging.getLogger(__name__)


class ProcessTable:
    """The arbiter's children. Only the arbiter's main thread uses it.

    Args:
        groups: all groups of the server.
        board: where workers get a row.
        selector: where their report pipes are registered.
        own_fds: descriptors of the arbiter that no child keeps, besides those in the selector.
    """

    def __init__(
        self,
        groups: Sequence[WorkerGroup],
        board: Scoreboard,
        selector: selectors.BaseSelector,
        own_fds: Iterable[int],
    ) -> None:
        self._groups = groups
        self._board = board
        self._selector = selector
        self._own_fds = tuple(own_fds)
        self._fork_servers = {group: ForkServer(group, board) for group in groups if group.preload is not None}
        self._by_pid: dict[int, Worker] = {}
        self._pending: list[Worker] = []

    def __len__(self) -> int:
        return len(self._by_pid) + len(self._pending)

    def __iter__(self) -> Iterator[Worker]:
        return iter([*self._by_pid.values(), *self._pending])

    @property
    def fork_server_slots(self) -> list[WorkerSlot]:
        """The slots of the fork servers."""
        return [fork_server.slot for fork_server in self._fork_servers.values()]

    def get(self, pid: int) -> Worker | None:
        """Return the process with that pid, or None."""
        return self._by_pid.get(pid)

    def pending(self) -> list[Worker]:
        """Return the workers that were requested from a fork server and have not reported their pid yet."""
        return list(self._pending)

    def requests_answered(self, worker: Worker) -> int:
        """Return how many requests a worker and its ended children have answered."""
        if worker.row is None:
            return 0
        row = self._board.row(worker.row)
        return row[BoardCell.REQUESTS] + row[BoardCell.PAST_REQUESTS]

    # Start

    def can_spawn(self, slot: WorkerSlot) -> bool:
        """Return whether the process that would fork a worker for the slot is ready."""
        fork_server = self._fork_servers.get(slot.group)
        return fork_server is None or slot is fork_server.slot or fork_server.ready

    def spawn(self, slot: WorkerSlot) -> Worker | None:
        """Start a process for a slot. Return None if that is impossible now."""
        fork_server = self._fork_servers.get(slot.group)
        if fork_server is not None and slot is fork_server.slot:
            with fork_server.open() as far_end:
                return self._fork(slot, None, lambda report: fork_server.run(far_end, report))
        try:
            row = self._board.reserve(slot.index, slot.restarts)
        except RuntimeError as error:  # processes that drain still have theirs
            log.error("can't start %s: %s", slot.label, error)
            return None
        request = SpawnRequest(slot.index, slot.restarts, row)
        if fork_server is not None:
            return self._request(fork_server, slot, request)
        return self._fork(slot, row, lambda report: run_worker(slot.group, request, self._board, report))

    def _fork(self, slot: WorkerSlot, row: int | None, main: Callable[[child.Report], int]) -> Worker | None:
        worker, writer = self._open_pipe(slot, row)

        def in_child() -> int:
            self._close_inherited(slot.group)
            return main(child.Report(writer))

        try:
            worker.pid = child.fork(in_child)
        except OSError as error:
            log.error("can't fork %s: %s", slot.label, error.strerror)
            self.remove(worker)
            return None
        finally:
            os.close(writer)
        self._by_pid[worker.pid] = worker
        return worker

    def _request(self, fork_server: ForkServer, slot: WorkerSlot, request: SpawnRequest) -> Worker | None:
        worker, writer = self._open_pipe(slot, request.row)
        accepted = fork_server.request(request, writer)
        os.close(writer)
        if not accepted:
            self.remove(worker)
            return None
        self._pending.append(worker)
        return worker

    def _open_pipe(self, slot: WorkerSlot, row: int | None) -> tuple[Worker, int]:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        worker = Worker(slot, row, reader)
        self._selector.register(reader, selectors.EVENT_READ, worker)
        return worker, writer

    def _close_inherited(self, group: WorkerGroup) -> None:
        """Close, in a child, what belongs to the arbiter alone, and the listeners of other groups."""
        for fd in (*(key.fd for key in self._selector.get_map().values()), *self._own_fds):
            os.close(fd)
        self._selector.close()
        for fork_server in self._fork_servers.values():
            fork_server.close()
        for other in self._groups:
            if other.listener is not group.listener:
                other.close_listener()

    # While they run

    def read_report(self, worker: Worker) -> None:
        """Read what a process has reported."""
        if worker.pipe < 0:
            return
        if not worker.read_report():
            self._close_pipe(worker)
        if worker.pid and worker in self._pending:
            self._pending.remove(worker)
            self._by_pid[worker.pid] = worker
            if worker.state is ProcessState.DRAINING:
                worker.signal(signal.SIGTERM)

    def drain(self, worker: Worker) -> None:
        """Have a process drain. A pending one gets the signal when its pid is known."""
        worker.state = ProcessState.DRAINING
        worker.signal(signal.SIGTERM)

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to every process."""
        for worker in self:
            worker.signal(number)

    # End

    def remove(self, worker: Worker) -> None:
        """Forget a process that has ended."""
        self._close_pipe(worker)
        if worker in self._pending:
            self._pending.remove(worker)
        elif worker.pid:
            self._by_pid.pop(worker.pid, None)
            self._board.free_children_of(worker.pid)
        if worker.row is not None:
            self._board.free(worker.row)

    def kill_all(self) -> None:
        """Kill every process; fork servers first, so that nothing is forked any more."""
        for worker in sorted(self, key=lambda worker: not worker.slot.is_fork_server):
            if worker.pid is not None:
                worker.signal(signal.SIGKILL)
                os.waitpid(worker.pid, 0)
            self.remove(worker)  # a pending one can't report its pid then, and ends
        for fork_server in self._fork_servers.values():
            fork_server.close()

    def _close_pipe(self, worker: Worker) -> None:
        if worker.pipe >= 0:
            self._selector.unregister(worker.pipe)
            os.close(worker.pipe)
            worker.pipe = -1


def ended_children() -> Iterator[tuple[int, int]]:
    """Reap every child that has ended, adopted orphans too, and yield its pid and exit code."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            yield pid, os.waitstatus_to_exitcode(status)
