"""Supervision: keeps every place filled, answers signals, never touches a client's socket.

    run():  startup -> main_loop -> shutdown
    signal --> wake-up pipe --> handle_<name>        child's report --> ready | failed
    child's end --> its place is filled again, later and later while it keeps failing

The parent holds the listening sockets but never accepts, so it survives whatever clients do; the
workers are tied to its life by the kernel.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import time
from collections.abc import Callable, Sequence

from thriftserve.errors import ExitCode
from thriftserve.status import ServerPhase
from thriftserve.workers.group import SOUND_AFTER_S, Place, State, Worker, WorkerGroup, spawn
from thriftserve.workers.scoreboard import Scoreboard
from thriftserve.workers.signals import SignalQueue

log = logging.getLogger(__name__)

#: After this many failures of one place in a row, while nobody serves, the server gives up.
MAX_FAILURES = 5
_TICK_S = 1.0


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
        self._places = [Place(group, index) for group in groups for index in range(group.count)]
        self._workers: dict[int, Worker] = {}
        self._announced = False
        self._stop_by: float | None = None
        self._exit_code = ExitCode.OK
        self._selector: selectors.BaseSelector

    def run(self) -> ExitCode:
        """Serves until a signal, or until no worker can.

        Returns:
            How the process should end.
        """
        with SignalQueue() as signals, selectors.DefaultSelector() as self._selector:
            self._selector.register(signals.fd, selectors.EVENT_READ, signals)
            try:
                for place in self._places:
                    place.worker = self._spawn(place)
                self._main_loop(signals)
            finally:
                self._kill_all()
        return self._exit_code

    def _main_loop(self, signals: SignalQueue) -> None:
        while self._stop_by is None or self._workers:
            for key, _ in self._selector.select(self._next_wait_s()):
                if isinstance(key.data, Worker):
                    self._read_report(key.data)
            for number in signals.take():
                self._handle(number)
            self._reap()
            self._fill_places()
            if self._stop_by is not None and time.monotonic() >= self._stop_by:
                log.warning(
                    "the drain time-out of %g s is over: ending %d workers", self._drain_timeout_s, len(self._workers)
                )
                self._force()
            self._publish_phase()

    def _next_wait_s(self) -> float:
        due = [place.respawn_at for place in self._places if place.respawn_at is not None]
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
            log.warning("told to stop a second time: ending %d workers now", len(self._workers))
            self._force()
            return
        log.info("draining: no new connections; up to %g s for what is in flight", self._drain_timeout_s)
        self._drain()

    handle_int = handle_term

    def handle_hup(self) -> None:
        """Replaces the workers one place after the other, each by one that loads everything anew."""
        if self._stop_by is not None:
            return
        log.info("reloading: new workers take over as they get ready")
        for place in self._places:
            place.reload_due = place.group.reloads

    def handle_usr1(self) -> None:
        """Has every worker print its threads' stacks; this process has printed its own."""
        for pid in self._workers:
            os.kill(pid, signal.SIGUSR1)

    # Workers

    def _spawn(self, place: Place) -> Worker:
        worker = spawn(place, self._board, self._selector)
        self._workers[worker.pid] = worker
        log.debug("started %s", worker.label)
        return worker

    def _read_report(self, worker: Worker) -> None:
        before = worker.state
        if not worker.read_report():
            self._forget_pipe(worker)
        if worker.state is State.READY and before is State.STARTING:
            self._became_ready(worker)

    def _forget_pipe(self, worker: Worker) -> None:
        if worker.pipe >= 0:
            self._selector.unregister(worker.pipe)
            os.close(worker.pipe)
            worker.pipe = -1

    def _became_ready(self, worker: Worker) -> None:
        place = worker.place
        log.info("%s is ready after %.1f s", worker.label, time.monotonic() - worker.started)
        if self._stop_by is not None:
            self._tell_to_drain(worker)
        elif worker is place.successor:
            old, place.worker, place.successor = place.worker, worker, None
            place.respawn_at = None
            if old is not None:
                self._tell_to_drain(old)
        if not self._announced and all(place.worker and place.worker.state is State.READY for place in self._places):
            self._announced = True
            self._on_ready()

    def _tell_to_drain(self, worker: Worker) -> None:
        worker.state = State.DRAINING
        os.kill(worker.pid, signal.SIGTERM)

    def _reap(self) -> None:
        for pid, worker in list(self._workers.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                if worker.pipe >= 0:
                    self._read_report(worker)  # its last words
                self._ended(worker, os.waitstatus_to_exitcode(status))

    def _ended(self, worker: Worker, code: int) -> None:
        del self._workers[worker.pid]
        self._forget_pipe(worker)
        self._board.free(worker.slot)
        self._board.free_children_of(worker.pid)
        expected = worker.state is State.DRAINING and (
            code == ExitCode.OK or (code == -signal.SIGTERM and not worker.was_ready)  # it had nothing to drain yet
        )
        log.log(logging.DEBUG if expected else logging.ERROR, "%s ended %s", worker.label, _how(code))
        if self._stop_by is not None and not expected:
            self._exit_code = self._exit_code or ExitCode.INTERNAL
        place = worker.place
        if worker is place.successor:
            place.successor = None
            log.error("reload of %s failed, the old one serves on: %s", worker.label, _why(worker, code))
        elif worker is place.worker:
            place.worker = None
            if self._stop_by is None:
                self._plan_respawn(place, worker, code)

    def _plan_respawn(self, place: Place, worker: Worker, code: int) -> None:
        sound = worker.state is not State.STARTING and time.monotonic() - worker.started >= SOUND_AFTER_S
        place.failures = 1 if sound else place.failures + 1
        hopeless = not self._announced and worker.failure is not None
        if hopeless or (place.failures >= MAX_FAILURES and not self._anyone_serves(place.group)):
            self._give_up(worker, code)
            return
        wait_s = place.backoff_s()
        place.restarts += 1
        place.respawn_at = time.monotonic() + wait_s
        log.warning("%s %d is started again in %.1f s", place.group.name, place.index, wait_s)

    def _anyone_serves(self, group: WorkerGroup) -> bool:
        return any(worker.place.group is group and worker.state is State.READY for worker in self._workers.values())

    def _give_up(self, worker: Worker, code: int) -> None:
        failed = worker.failure[0] if worker.failure else ExitCode.WORKERS_FAILING
        log.critical("the server can't go on: %s", _why(worker, code))
        self._exit_code = failed
        self._drain()

    def _fill_places(self) -> None:
        if self._stop_by is not None:
            return
        now = time.monotonic()
        for place in self._places:
            if place.respawn_at is not None and now >= place.respawn_at:
                place.respawn_at = None
                place.worker = self._spawn(place)
        self._reload_next()

    def _reload_next(self) -> None:
        """Begins the next place's reload when no other is under way: one model more in memory, not one a place."""
        if any(place.successor for place in self._places):
            return
        for place in self._places:
            if place.reload_due and place.worker is not None and place.worker.state is State.READY:
                place.reload_due = False
                place.successor = self._spawn(place)
                return

    # The end

    def _drain(self) -> None:
        self._stop_by = time.monotonic() + self._drain_timeout_s
        self._board.set_phase(ServerPhase.DRAINING)  # before the workers hear of it: see Acceptor.last
        for group in self._groups:
            group.listener.close()
        for worker in self._workers.values():
            self._tell_to_drain(worker)

    def _force(self) -> None:
        if self._workers:
            self._exit_code = self._exit_code or ExitCode.FORCED
        self._kill_all()

    def _kill_all(self) -> None:
        for pid, worker in list(self._workers.items()):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            del self._workers[pid]
            self._forget_pipe(worker)
        for group in self._groups:
            group.listener.close()

    def _publish_phase(self) -> None:
        if self._stop_by is not None:
            phase = ServerPhase.DRAINING
        elif not self._announced:
            phase = ServerPhase.STARTING
        elif all(place.worker and place.worker.state is State.READY for place in self._places):
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
    return f"{worker.place.group.name} {worker.place.index} keeps ending {_how(code)}"
