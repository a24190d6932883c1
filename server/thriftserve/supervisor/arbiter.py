"""Supervision: keeps every place filled, answers signals, never touches a client's socket.

    run():  startup -> main_loop -> shutdown
    signal --> wake-up pipe --> handle_<name>        child's report --> ready | failed | another is stuck
    child's end --> its place is filled again, later and later while it keeps failing
    drain --> groups of order 0, and when those have ended, of the next

The parent holds the listening sockets but never accepts, so it survives whatever clients do; the
workers are tied to its life by the kernel. It imports nothing of what they serve with: a group that
wants that once for all its workers has a nursery.
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
from thriftserve.supervisor.process_table import ProcessTable, ended_children
from thriftserve.supervisor.scoreboard import Scoreboard
from thriftserve.supervisor.signals import SignalQueue
from thriftserve.supervisor.worker_group import GroupState, Worker, WorkerGroup, WorkerSlot

log = logging.getLogger(__name__)

#: After this many failures of one place in a row, while nobody serves, the server gives up.
MAX_FAILURES = 5
_TICK_S = 1.0
#: A process that can't be started now is tried again so much later.
_RETRY_S = 0.2
#: Told of a drain: no group yet.
_NOBODY = -1


class Arbiter:
    """A parent process and its workers.

    Args:
        groups: what to run.
        board: where the workers keep their numbers.
        drain_timeout_s: after SIGTERM, workers get this long to finish what they hold.
        on_ready: called once, when every worker has loaded what it serves.
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
        self._places = [WorkerSlot(group, index) for group in groups for index in range(group.count)]
        self._announced = False
        self._stop_by: float | None = None
        self._told = _NOBODY
        self._exit_code = ExitCode.OK
        self._selector: selectors.BaseSelector
        self._roster: ProcessTable

    def run(self) -> ExitCode:
        """Serves until a signal, or until no worker can.

        Returns:
            How the process should end.
        """
        with SignalQueue() as signals, selectors.DefaultSelector() as self._selector:
            self._selector.register(signals.fd, selectors.EVENT_READ, signals)
            self._roster = ProcessTable(self._groups, self._board, self._selector, [signals.writer])
            try:
                child.adopt_orphans(bool(self._roster.nurseries))
                self._main_loop(signals)
            finally:
                self._kill_all()
                child.adopt_orphans(False)
        return self._exit_code

    def _main_loop(self, signals: SignalQueue) -> None:
        while self._stop_by is None or self._roster:
            self._fill_places()
            for key, _ in self._selector.select(self._next_wait_s()):
                if isinstance(key.data, Worker):
                    self._read_report(key.data)
            for number in signals.take():
                self._handle(number)
            self._reap()
            if self._stop_by is not None:
                self._go_on_draining()
            self._publish_phase()

    def _next_wait_s(self) -> float:
        due = [place.respawn_at for place in self._vacant() if place.respawn_at is not None]
        if self._stop_by is not None:
            due.append(self._stop_by)
        return min([_TICK_S, *(max(0.0, at - time.monotonic()) for at in due)])

    # Signals

    def _handle(self, number: int) -> None:
        name = signal.Signals(number).name.removeprefix("SIG").lower()
        getattr(self, f"handle_{name}")()

    def handle_chld(self) -> None:
        """A child ended: the main loop looks for it in any case."""

    def handle_term(self) -> None:
        """Drains; told again, stops at once."""
        if self._stop_by is not None:
            log.warning("told to stop a second time: ending %d processes now", len(self._roster))
            self._force()
            return
        log.info("draining: no new connections; up to %g s for what is in flight", self._drain_timeout_s)
        self._drain()

    handle_int = handle_term

    def handle_hup(self) -> None:
        """Has the keeper look at everything anew; without one, the workers are replaced."""
        keepers = [place for place in self._places if place.group.keeper]
        for keeper in (place.worker for place in keepers if place.worker):  # one that begins reads everything
            keeper.signal(signal.SIGHUP)
        if not keepers:
            self._reload()

    def _reload(self) -> None:
        """Replaces the workers one place after the other, each by one that loads everything anew."""
        if self._stop_by is not None:
            return
        log.info("reloading: new workers take over as they get ready")
        for place in self._places:
            place.reload_due = place.group.reloads

    def handle_usr1(self) -> None:
        """Has every worker print its threads' stacks; this process has printed its own."""
        self._roster.signal_all(signal.SIGUSR1)

    # Reports

    def _read_report(self, worker: Worker) -> None:
        before = worker.state
        self._roster.read(worker)
        for pid, held_s in worker.accused:
            self._end_stuck(pid, held_s)
        worker.accused.clear()
        if worker.asks_reload:
            worker.asks_reload = False
            self._reload()
        if worker.pipe < 0 and not worker.pid:  # its nursery could not fork it, or ended
            self._ended(worker, ExitCode.INTERNAL)
        elif worker.state is GroupState.READY and before is GroupState.STARTING:
            self._became_ready(worker)

    def _end_stuck(self, pid: int, held_s: float) -> None:
        worker = self._roster.get(pid)
        if worker is None or worker.place.is_nursery:
            log.warning("process %d is said to be stuck, and is no worker", pid)
        elif not worker.stuck:
            log.error("%s has held its requests for %.1f s and is killed", worker.label, held_s)
            worker.stuck = True
            worker.signal(signal.SIGKILL)

    def _became_ready(self, worker: Worker) -> None:
        place = worker.place
        log.info("%s is ready after %.1f s", worker.label, time.monotonic() - worker.started)
        if self._is_told(place.group):
            self._roster.tell_to_drain(worker)
        elif worker is place.successor:
            old, place.worker, place.successor = place.worker, worker, None
            place.respawn_at = None
            if old is not None:
                self._roster.tell_to_drain(old)
        if not self._announced and all(place.serves for place in self._places):
            self._announced = True
            self._on_ready()

    # Ends

    def _reap(self) -> None:
        for pid, code in ended_children():
            if self._roster.get(pid) is None:
                for unborn in self._roster.unborn():  # who that was may not have been read yet
                    self._read_report(unborn)
            worker = self._roster.get(pid)
            if worker is not None:  # else an orphan that came to this process to be reaped
                self._read_report(worker)  # its last words
                self._ended(worker, code)

    def _ended(self, worker: Worker, code: int) -> None:
        sound = worker.was_sound(self._roster.answered(worker))
        self._roster.forget(worker)
        expected = worker.state is GroupState.DRAINING and (
            # it had nothing to drain yet
            code == ExitCode.OK or (not worker.was_ready and (code == -signal.SIGTERM or not worker.pid))
        )
        log.log(logging.DEBUG if expected else logging.ERROR, "%s ended %s", worker.label, _how(code))
        place = worker.place
        if self._is_told(place.group) and not expected:
            self._exit_code = self._exit_code or ExitCode.INTERNAL
        if worker is place.successor:
            place.successor = None
            log.error("reload of %s failed, the old one serves on: %s", worker.label, _why(worker, code))
            for each in self._places:  # a keeper will say what to load instead
                each.reload_due = each.reload_due and not any(group.keeper for group in self._groups)
        elif place.freed and worker is place.worker:
            place.freed, place.worker, place.respawn_at = False, None, 0.0
        elif worker is place.worker:
            place.worker = None
            if not self._is_told(place.group):
                place.failures = 1 if sound else place.failures + 1
                self._plan_respawn(place, worker, code)

    def _plan_respawn(self, place: WorkerSlot, worker: Worker, code: int) -> None:
        hopeless = not self._announced and worker.failure is not None
        # No program kills itself so: once all have been ready, that says nothing of what they serve.
        killed = self._announced and code == -signal.SIGKILL
        if hopeless or (place.failures >= MAX_FAILURES and not killed and not self._anyone_serves(place.group)):
            self._give_up(worker, code)
            return
        wait_s = place.backoff_s()
        place.restarts += 1
        place.respawn_at = time.monotonic() + wait_s
        log.warning("%s is started again in %.1f s", place.label, wait_s)

    def _anyone_serves(self, group: WorkerGroup) -> bool:
        return any(
            worker.place.group is group and not worker.place.is_nursery and worker.state is GroupState.READY
            for worker in self._roster
        )

    def _give_up(self, worker: Worker, code: int) -> None:
        failed = worker.failure[0] if worker.failure else ExitCode.WORKERS_FAILING
        log.critical("the server can't go on: %s", _why(worker, code))
        self._exit_code = failed
        if self._stop_by is None:
            self._drain()
        self._tell(max(group.drain_order for group in self._groups))  # nobody is worth waiting for

    # Beginnings

    def _vacant(self) -> list[WorkerSlot]:
        """The places that are to be filled, and can be: those of nurseries first."""
        return [
            place
            for place in (*self._roster.nurseries, *self._places)
            if place.respawn_at is not None and not self._is_told(place.group) and self._roster.can_spawn(place)
        ]

    def _fill_places(self) -> None:
        now = time.monotonic()
        for place in self._vacant():
            if place.respawn_at is not None and now >= place.respawn_at:
                place.worker = self._roster.spawn(place)
                place.respawn_at = now + _RETRY_S if place.worker is None else None
        if self._stop_by is None:
            self._reload_next()

    def _reload_next(self) -> None:
        """Begins the next place's reload when no other is under way: one model more in memory, not one a place."""
        if any(place.successor or place.freed for place in self._places):
            return
        for place in self._places:
            if place.reload_due and place.serves and place.group.frees_first:
                if all(each.serves for each in self._places if each.group is place.group):
                    self._free(place)
                return
            if place.reload_due and place.serves and self._roster.can_spawn(place):
                place.successor = self._roster.spawn(place)
                place.reload_due = place.successor is None
                return

    def _free(self, place: WorkerSlot) -> None:
        """Ends a place's worker; its end has the place filled again."""
        if place.worker is not None:
            place.freed, place.reload_due = True, False
            self._roster.tell_to_drain(place.worker)

    # The end

    def _drain(self) -> None:
        self._stop_by = time.monotonic() + self._drain_timeout_s
        self._board.set_phase(ServerPhase.DRAINING)  # before the workers hear of it: see Acceptor.last
        self._go_on_draining()

    def _go_on_draining(self) -> None:
        lowest = min((worker.place.group.drain_order for worker in self._roster), default=_NOBODY)
        if lowest > self._told:
            self._tell(lowest)
        if self._stop_by is not None and time.monotonic() >= self._stop_by:
            log.warning(
                "the drain time-out of %g s is over: ending %d processes", self._drain_timeout_s, len(self._roster)
            )
            self._force()

    def _is_told(self, group: WorkerGroup) -> bool:
        return group.drain_order <= self._told

    def _tell(self, order: int) -> None:
        """Has the groups up to that order drain, their nurseries with them."""
        news = [group for group in self._groups if self._told < group.drain_order <= order]
        self._told = order
        for group in news:
            if group.listener is not None:
                group.listener.close()
        for worker in self._roster:
            if worker.place.group in news:
                self._roster.tell_to_drain(worker)

    def _force(self) -> None:
        if self._roster:
            self._exit_code = self._exit_code or ExitCode.FORCED
        self._kill_all()

    def _kill_all(self) -> None:
        self._roster.kill_all()
        for group in self._groups:
            if group.listener is not None:
                group.listener.close()

    def _publish_phase(self) -> None:
        if self._stop_by is not None:
            phase = ServerPhase.DRAINING
        elif not self._announced:
            phase = ServerPhase.STARTING
        elif all(place.serves for place in self._places):
            phase = ServerPhase.SERVING
        else:
            phase = ServerPhase.DEGRADED
        self._board.set_phase(phase)


def _how(code: int) -> str:
    if code < 0:
        return f"by {signal.Signals(-code).name}"
    return f"with exit code {code}"


def _why(worker: Worker, code: int) -> str:
    if worker.failure:
        return worker.failure[1]
    return f"{worker.place.label} keeps ending {_how(code)}"
