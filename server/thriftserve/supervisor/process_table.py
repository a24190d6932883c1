"""The processes that live: begun for a place, heard, signalled, reaped.

spawn(place) --> forked here | asked of its group's nursery --> Worker, its report pipe in the selector
the kernel --ended_children()--> (pid, exit code) --> get(pid) --> forget()
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
from thriftserve.supervisor.worker_group import GroupState, SpawnRequest, Worker, WorkerGroup, WorkerSlot, work

log = logging.getLogger(__name__)


class ProcessTable:
    """The arbiter's children.

    Args:
        groups: all there are.
        board: where workers get a slot.
        selector: where their pipes are watched.
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
        self._nurseries = {group: ForkServer(group, board) for group in groups if group.preload is not None}
        self._by_pid: dict[int, Worker] = {}
        self._unborn: list[Worker] = []

    def __len__(self) -> int:
        return len(self._by_pid) + len(self._unborn)

    def __iter__(self) -> Iterator[Worker]:
        return iter([*self._by_pid.values(), *self._unborn])

    @property
    def nurseries(self) -> list[WorkerSlot]:
        """The places of the nurseries."""
        return [nursery.place for nursery in self._nurseries.values()]

    def get(self, pid: int) -> Worker | None:
        """The worker with that pid, if it is one."""
        return self._by_pid.get(pid)

    def unborn(self) -> list[Worker]:
        """Those that were asked of a nursery and have not said who they are."""
        return list(self._unborn)

    # Beginnings

    def can_spawn(self, place: WorkerSlot) -> bool:
        """Whether what a worker of that place is forked from is there."""
        nursery = self._nurseries.get(place.group)
        return nursery is None or place is nursery.place or nursery.ready

    def spawn(self, place: WorkerSlot) -> Worker | None:
        """Begins a process for a place; None where that can't be done now."""
        nursery = self._nurseries.get(place.group)
        if nursery is not None and place is nursery.place:
            with nursery.open() as far:
                return self._fork(place, None, lambda report: nursery.run(far, report))
        try:
            slot = self._board.reserve(place.index, place.restarts)
        except RuntimeError as error:  # others that drain have them still
            log.error("%s can't be started: %s", place.label, error)
            return None
        seat = SpawnRequest(place.index, place.restarts, slot)
        if nursery is not None:
            return self._ask(nursery, place, seat)
        return self._fork(place, slot, lambda report: work(place.group, seat, self._board, report))

    def _fork(self, place: WorkerSlot, slot: int | None, main: Callable[[child.Report], int]) -> Worker | None:
        worker, writer = self._watched(place, slot)

        def in_child() -> int:
            self._shed(place.group)
            return main(child.Report(writer))

        try:
            worker.pid = child.fork(in_child)
        except OSError as error:
            log.error("%s can't be forked: %s", place.label, error.strerror)
            self.forget(worker)
            return None
        finally:
            os.close(writer)
        self._by_pid[worker.pid] = worker
        return worker

    def _ask(self, nursery: ForkServer, place: WorkerSlot, seat: SpawnRequest) -> Worker | None:
        worker, writer = self._watched(place, seat.slot)
        asked = nursery.ask(seat, writer)
        os.close(writer)
        if not asked:
            self.forget(worker)
            return None
        self._unborn.append(worker)
        return worker

    def _watched(self, place: WorkerSlot, slot: int | None) -> tuple[Worker, int]:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        worker = Worker(place, slot, reader)
        self._selector.register(reader, selectors.EVENT_READ, worker)
        return worker, writer

    def _shed(self, group: WorkerGroup) -> None:
        """In a child: closes what is the arbiter's alone, and other groups' listeners."""
        for fd in (*(key.fd for key in self._selector.get_map().values()), *self._own_fds):
            os.close(fd)
        self._selector.close()
        for nursery in self._nurseries.values():
            nursery.close()
        for other in self._groups:
            if other.listener is not None and other.listener is not group.listener:
                other.listener.close()

    # Lives

    def read(self, worker: Worker) -> None:
        """Takes what a worker reported."""
        if worker.pipe < 0:
            return
        if not worker.read_report():
            self._close_pipe(worker)
        if worker.pid and worker in self._unborn:
            self._unborn.remove(worker)
            self._by_pid[worker.pid] = worker
            if worker.state is GroupState.DRAINING:
                worker.signal(signal.SIGTERM)

    def tell_to_drain(self, worker: Worker) -> None:
        """Has a worker finish; one that is not born yet hears of it then."""
        worker.state = GroupState.DRAINING
        worker.signal(signal.SIGTERM)

    def signal_all(self, number: signal.Signals) -> None:
        """Sends a signal to everybody."""
        for worker in self:
            worker.signal(number)

    # Ends

    def answered(self, worker: Worker) -> int:
        """How many requests a worker, or its children, have answered."""
        if worker.slot is None:
            return 0
        slot = self._board.slot(worker.slot)
        return slot[BoardCell.REQUESTS] + slot[BoardCell.PAST_REQUESTS]

    def forget(self, worker: Worker) -> None:
        """It has ended."""
        self._close_pipe(worker)
        if worker in self._unborn:
            self._unborn.remove(worker)
        elif worker.pid:
            self._by_pid.pop(worker.pid, None)
            self._board.free_children_of(worker.pid)
        if worker.slot is not None:
            self._board.free(worker.slot)

    def kill_all(self) -> None:
        """Ends everybody, nurseries first: nobody is born any more."""
        for worker in sorted(self, key=lambda worker: not worker.place.is_nursery):
            if worker.pid is not None:
                worker.signal(signal.SIGKILL)
                os.waitpid(worker.pid, 0)
            self.forget(worker)  # one that is just being born finds nobody to tell, and ends
        for nursery in self._nurseries.values():
            nursery.close()

    def _close_pipe(self, worker: Worker) -> None:
        if worker.pipe >= 0:
            self._selector.unregister(worker.pipe)
            os.close(worker.pipe)
            worker.pipe = -1


def ended_children() -> Iterator[tuple[int, int]]:
    """(pid, exit code) of every child that has ended: workers, and orphans whom nobody else would reap."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            yield pid, os.waitstatus_to_exitcode(status)
