"""The supervisor's main loop: keeps every slot filled, handles signals, never touches a client's socket.

    run():  start -> main loop -> end
    signal --> wake-up pipe --> handler                     report of a child --> ready | failed | another is stuck
    end of a child --> its slot is filled again, after a pause that doubles while it keeps failing
                       (before the server was ready: after some failures the server gives up)
    drain --> groups of order 0, and when they have ended, those of the next order

The supervisor holds the listening sockets but never accepts a connection, so it survives whatever clients do. The
kernel ties the workers to its life. It imports nothing that the workers serve with: groups that need a heavy import
have a fork server.
"""

from __future__ import annotations

import logging
import selectors
import signal
import time
from collections.abc import Callable, Sequence

from thriftserve.errors import ExitCode
from thriftserve.status import ServerPhase
from thriftserve.supervisor import child
from thriftserve.supervisor.child import SignalQueue
from thriftserve.supervisor.process_table import ProcessTable, ended_children
from thriftserve.supervisor.scoreboard import Scoreboard
from thriftserve.supervisor.worker_group import (
    BACKOFF_ALONE_S,
    BACKOFF_LAST_S,
    ProcessState,
    Worker,
    WorkerGroup,
    WorkerSlot,
)

log = logging.getLogger(__name__)

#: A server that was never ready gives up after this many failures of a slot in a row, while none of its group serves.
MAX_FAILURES = 5
_TICK_S = 1.0
#: Pause before another try to start a process that could not be started.
_SPAWN_RETRY_S = 0.2
#: Lower than the drain order of any group.
_NO_ORDER = -1


class Arbiter:
    """The parent process of a server, with its workers. Use it in the main thread.

    Args:
        groups: what to run.
        board: where the workers keep their numbers.
        drain_timeout_s: after SIGTERM, workers have this long to finish their requests.
        on_ready: called once, when every worker is ready.
    """

    def __init__(
        self,
        groups: Sequence[WorkerGroup],
        board: Scoreboard,
        *,
        drain_timeout_s: float,
        on_ready: Callable[[], None],
    ) -> None:
        self._groups = groups
        self._board = board
        self._drain_timeout_s = drain_timeout_s
        self._on_ready = on_ready
        self._slots = [WorkerSlot(group, index) for group in groups for index in range(group.count)]
        self._handlers: dict[int, Callable[[], None]] = {
            signal.SIGTERM: self._stop,
            signal.SIGINT: self._stop,
            signal.SIGHUP: self._forward_sighup,
            signal.SIGUSR1: self._print_stacks,
            signal.SIGCHLD: lambda: None,  # the main loop reaps in any case
        }
        self._was_ready = False
        #: When to kill what still drains; None: the server does not drain.
        self._drain_ends_at: float | None = None
        #: Groups of this order and below drain.
        self._draining_order = _NO_ORDER
        self._exit_code = ExitCode.OK
        self._selector: selectors.BaseSelector
        self._processes: ProcessTable

    def run(self) -> ExitCode:
        """Run the server until a signal ends it, or until it is clear that it will never be ready.

        Returns:
            How the process should end.
        """
        with SignalQueue() as signals, selectors.DefaultSelector() as self._selector:
            self._selector.register(signals.fd, selectors.EVENT_READ, signals)
            self._processes = ProcessTable(self._groups, self._board, self._selector, [signals.writer])
            try:
                child.adopt_orphans(bool(self._processes.fork_server_slots))
                self._main_loop(signals)
            finally:
                self._kill_all()
                child.adopt_orphans(False)
        return self._exit_code

    def _main_loop(self, signals: SignalQueue) -> None:
        while self._drain_ends_at is None or self._processes:
            self._fill_slots()
            for key, _ in self._selector.select(self._next_wait_s()):
                if isinstance(key.data, Worker):
                    self._read_report(key.data)
            for number in signals.take():
                self._handlers[number]()
            self._reap()
            if self._drain_ends_at is not None:
                self._continue_drain()
            self._publish_phase()

    def _next_wait_s(self) -> float:
        due = [slot.respawn_at for slot in self._vacant_slots() if slot.respawn_at is not None]
        if self._drain_ends_at is not None:
            due.append(self._drain_ends_at)
        return min([_TICK_S, *(max(0.0, at - time.monotonic()) for at in due)])

    # Signals

    def _stop(self) -> None:
        """Drain; on a second signal, kill every process at once."""
        if self._drain_ends_at is not None:
            log.warning("second signal to stop: killing %d processes", len(self._processes))
            self._force()
            return
        log.info("draining: no new connections; requests in flight have up to %g s", self._drain_timeout_s)
        self._start_drain()

    def _forward_sighup(self) -> None:
        """Pass SIGHUP on to the workers that take it. If there are none, replace the workers."""
        slots = [slot for slot in self._slots if slot.group.takes_sighup]
        for worker in (slot.worker for slot in slots if slot.worker):  # one that starts reads everything anyway
            worker.signal(signal.SIGHUP)
        if not slots:
            self._reload()

    def _print_stacks(self) -> None:
        """Have every process print its stacks. This one has printed its own (`print_stacks_on_sigusr1`)."""
        self._processes.signal_all(signal.SIGUSR1)

    # Reports

    def _read_report(self, worker: Worker) -> None:
        old_state = worker.state
        self._processes.read_report(worker)
        for pid, held_s in worker.reported_stuck:
            self._kill_stuck(pid, held_s)
        worker.reported_stuck.clear()
        if worker.reload_requested:
            worker.reload_requested = False
            self._reload()
        if worker.pipe < 0 and not worker.pid:  # its fork server has ended, or could not fork it
            self._handle_end(worker, ExitCode.INTERNAL)
        elif worker.state is ProcessState.READY and old_state is ProcessState.STARTING:
            self._handle_ready(worker)

    def _kill_stuck(self, pid: int, held_s: float) -> None:
        worker = self._processes.get(pid)
        if worker is None or worker.slot.is_fork_server:
            log.warning("process %d was reported as stuck, but is not a worker: ignored", pid)
        elif not worker.stuck:
            log.error("%s has held its requests for %.1f s and is killed", worker.label, held_s)
            worker.stuck = True
            worker.signal(signal.SIGKILL)

    def _handle_ready(self, worker: Worker) -> None:
        slot = worker.slot
        log.info("%s is ready after %.1f s", worker.label, time.monotonic() - worker.started)
        if self._drains(slot.group):
            self._processes.drain(worker)
        elif worker is slot.successor:
            old, slot.worker, slot.successor = slot.worker, worker, None
            slot.respawn_at = None
            if old is not None:
                self._processes.drain(old)
        if not self._was_ready and all(slot.serves for slot in self._slots):
            self._was_ready = True
            self._on_ready()

    # Ends of processes

    def _reap(self) -> None:
        for pid, code in ended_children():
            if self._processes.get(pid) is None:
                for pending in self._processes.pending():  # its report of its pid may be unread
                    self._read_report(pending)
            worker = self._processes.get(pid)
            if worker is not None:  # otherwise an adopted orphan
                self._read_report(worker)
                self._handle_end(worker, code)

    def _handle_end(self, worker: Worker, code: int) -> None:
        slot = worker.slot
        healthy = worker.was_healthy(self._processes.requests_answered(worker))
        self._processes.remove(worker)
        expected = worker.ended_as_expected(code)
        log.log(logging.DEBUG if expected else logging.ERROR, "%s ended %s", worker.label, _exit_text(code))
        if self._drains(slot.group) and not expected:
            self._exit_code = self._exit_code or ExitCode.INTERNAL
        if worker is slot.successor:
            slot.successor = None
            log.error("reload of %s failed, the old one serves on: %s", worker.label, _failure_text(worker, code))
            self._give_up_reload()
        elif worker is slot.worker and slot.stopped_for_reload:
            slot.stopped_for_reload, slot.worker, slot.respawn_at = False, None, 0.0
        elif worker is slot.worker:
            slot.worker = None
            if not self._drains(slot.group):
                slot.failures = 1 if healthy else slot.failures + 1
                self._plan_respawn(slot, worker, code)

    def _plan_respawn(self, slot: WorkerSlot, worker: Worker, code: int) -> None:
        """Plan when a slot is filled again. A server that was ready never gives up: requests may end workers, too."""
        if not self._was_ready and (
            worker.failure is not None or (slot.failures >= MAX_FAILURES and not self._any_serves(slot.group))
        ):
            self._give_up(worker, code)
            return
        wait_s = slot.backoff_s(last_s=BACKOFF_LAST_S if self._any_serves(slot.group) else BACKOFF_ALONE_S)
        slot.restarts += 1
        slot.respawn_at = time.monotonic() + wait_s
        log.warning("restarting %s in %.1f s", slot.label, wait_s)

    def _any_serves(self, group: WorkerGroup) -> bool:
        return any(
            worker.slot.group is group and not worker.slot.is_fork_server and worker.state is ProcessState.READY
            for worker in self._processes
        )

    def _give_up(self, worker: Worker, code: int) -> None:
        log.critical("the server can't go on: %s", _failure_text(worker, code))
        self._exit_code = worker.failure[0] if worker.failure else ExitCode.WORKERS_FAILING
        if self._drain_ends_at is None:
            self._start_drain()
        self._drain_up_to(max(group.drain_order for group in self._groups))

    # Starts of processes

    def _vacant_slots(self) -> list[WorkerSlot]:
        """Return the slots that are to be filled and can be, those of fork servers first."""
        return [
            slot
            for slot in (*self._processes.fork_server_slots, *self._slots)
            if slot.respawn_at is not None and not self._drains(slot.group) and self._processes.can_spawn(slot)
        ]

    def _fill_slots(self) -> None:
        now = time.monotonic()
        for slot in self._vacant_slots():
            if slot.respawn_at is not None and now >= slot.respawn_at:
                slot.worker = self._processes.spawn(slot)
                slot.respawn_at = now + _SPAWN_RETRY_S if slot.worker is None else None
        if self._drain_ends_at is None:
            self._reload_next()

    # Reload

    def _reload(self) -> None:
        """Replace the workers, one slot after the other, by workers that load everything again."""
        if self._drain_ends_at is not None:
            return
        log.info("reloading: each new worker takes over when it is ready")
        for slot in self._slots:
            slot.reload_due = slot.group.reloads

    def _reload_next(self) -> None:
        """Start the reload of the next slot, unless one is in progress, so that memory holds one extra copy only."""
        if any(slot.successor or slot.stopped_for_reload for slot in self._slots):
            return
        for slot in self._slots:
            if not (slot.reload_due and slot.serves):
                continue
            if slot.group.stop_first:
                if all(other.serves for other in self._slots if other.group is slot.group):
                    self._stop_for_reload(slot)
                return
            if self._processes.can_spawn(slot):
                slot.successor = self._processes.spawn(slot)
                slot.reload_due = slot.successor is None
                return

    def _stop_for_reload(self, slot: WorkerSlot) -> None:
        """Drain the worker of a slot. Its end has the slot filled again."""
        if slot.worker is not None:
            slot.stopped_for_reload, slot.reload_due = True, False
            self._processes.drain(slot.worker)

    def _give_up_reload(self) -> None:
        """Replace no further workers if a controller will request another reload."""
        if any(group.takes_sighup for group in self._groups):
            for slot in self._slots:
                slot.reload_due = False

    # Drain

    def _start_drain(self) -> None:
        self._drain_ends_at = time.monotonic() + self._drain_timeout_s
        self._board.set_phase(ServerPhase.DRAINING)  # before the workers get their signal: see Acceptor.accept_pending
        self._continue_drain()

    def _continue_drain(self) -> None:
        lowest = min((worker.slot.group.drain_order for worker in self._processes), default=_NO_ORDER)
        if lowest > self._draining_order:
            self._drain_up_to(lowest)
        if self._drain_ends_at is not None and time.monotonic() >= self._drain_ends_at:
            log.warning(
                "drain time-out of %g s is over: killing %d processes", self._drain_timeout_s, len(self._processes)
            )
            self._force()

    def _drains(self, group: WorkerGroup) -> bool:
        return group.drain_order <= self._draining_order

    def _drain_up_to(self, order: int) -> None:
        """Drain the groups up to that order, and their fork servers."""
        groups = [group for group in self._groups if self._draining_order < group.drain_order <= order]
        self._draining_order = order
        for group in groups:
            group.close_listener()
        for worker in self._processes:
            if worker.slot.group in groups:
                self._processes.drain(worker)

    def _force(self) -> None:
        if self._processes:
            self._exit_code = self._exit_code or ExitCode.FORCED
        self._kill_all()

    def _kill_all(self) -> None:
        self._processes.kill_all()
        for group in self._groups:
            group.close_listener()

    def _publish_phase(self) -> None:
        if self._drain_ends_at is not None:
            phase = ServerPhase.DRAINING
        elif not self._was_ready:
            phase = ServerPhase.STARTING
        elif all(slot.serves for slot in self._slots):
            phase = ServerPhase.SERVING
        else:
            phase = ServerPhase.DEGRADED
        self._board.set_phase(phase)


def _exit_text(code: int) -> str:
    if code < 0:
        return f"by {signal.Signals(-code).name}"
    return f"with exit code {code}"


def _failure_text(worker: Worker, code: int) -> str:
    if worker.failure:
        return worker.failure[1]
    return f"{worker.slot.label} keeps ending {_exit_text(code)}"
