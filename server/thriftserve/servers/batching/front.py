"""TBatchingServer's front: the process that holds every connection and the queue, and no model.

    epoll --> connections: frames in, replies out | slots: replies in, batches out | new connections | new slots
          --> dispatch() once a round, so that requests that came together run together

It holds whole messages and never decodes a tensor. It is one thread on epoll; a worker's death, a slow client or a
full queue is an event like any other.
"""

from __future__ import annotations

import logging
import select
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from thriftserve.servers.acceptor import PAUSE_S, Acceptor, OutOfDescriptors, SpareDescriptors, arrived_before_s
from thriftserve.servers.batching.admission import AdmissionControl, MemoryBudget
from thriftserve.servers.batching.connection import ConnectionContext, FrontConnection
from thriftserve.servers.batching.dispatcher import Dispatcher
from thriftserve.servers.batching.ipc import Rendezvous
from thriftserve.servers.batching.local_replies import FrontPolicy, LocalReplies
from thriftserve.servers.batching.request_queue import BatchWait, Clock, RequestQueue
from thriftserve.servers.batching.slot import Slot
from thriftserve.servers.busy_poll import BusyPoll
from thriftserve.servers.context import ServerContext
from thriftserve.servers.rejection import too_many_connections
from thriftserve.status import WorkerRole
from thriftserve.supervisor.listener import tls_context

log = logging.getLogger(__name__)

_SWEEP_S = 1.0
#: Events that are handled before slots and new connections get a turn: a crowd of clients must neither keep workers
#: waiting nor have the kernel drop those that connect (they try again after a second). Figures:
#: docs/explanation/decisions.md, "Crowds don't starve workers".
_MAX_EVENTS = 64
_EXPIRE_S = 0.01
_DRAIN_STEP_S = 0.02
#: Connections over the limit that are open for the moment that it takes to refuse them.
_MAX_REFUSING = 64
#: Connections accepted in a row, before the others get their turn.
_MAX_ACCEPTS = 16
#: A connection this young has not had the time to send its first request; a drain waits for it so long.
_NEWCOMER_S = 0.1


class TBatchingFront:
    """A front process.

    Args:
        server: the settings, the listener and the scoreboard of the process.
        number: which of the fronts it is, from 0.
        rendezvous: where workers connect.
        policy: what it may do by itself for the service.
    """

    def __init__(self, server: ServerContext, number: int, rendezvous: Rendezvous, policy: FrontPolicy) -> None:
        self._server = server
        self._settings = server.settings
        self._rendezvous = rendezvous
        self._number = number
        self._policy = policy
        self._counters = server.context.counters
        self._clock = Clock()
        self._connections: dict[int, FrontConnection] = {}
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._ended: list[FrontConnection] = []
        #: Listening sockets that wait for a descriptor, and when they are tried again.
        self._paused: list[socket.socket] = []
        self._resume_at: float | None = None
        #: Descriptors that clients don't get: those of slots that are not there, or a worker that died with all in use
        #: could never be replaced.
        self._spares = SpareDescriptors()
        self._expire_at = 0.0
        #: What workers reported of themselves.
        self._about: dict[str, Any] = {}
        #: A reply comes when a run is done, a request when a client sees fit: each has its own usual wait.
        self._poll_for_replies = BusyPoll.among_several(self._settings.spin_us)
        self._poll_for_requests = BusyPoll.among_several(self._settings.spin_us)
        self._epoll: select.epoll
        #: Slots and new connections alone, for their turn in a crowd.
        self._urgent_epoll: select.epoll

    def prepare(self) -> None:
        """Put the parts together and wait for the first slot: clients are accepted once somebody serves them."""
        self._counters.set_role(WorkerRole.FRONT)
        settings, policy, clock = self._settings, self._policy, self._clock
        tls = tls_context(settings)
        processor = None
        if policy.make_processor is not None:
            processor = policy.make_processor(self._server.context, self._about, self._can_run)
        replies = LocalReplies(policy, processor, settings.protocol, settings.max_message_bytes)
        self._queue = queue = RequestQueue(ordered=policy.ordered)
        self._budget = budget = MemoryBudget(settings.max_queued_bytes, settings.max_message_bytes)
        batch_wait = BatchWait(queue, replies.expiry)
        self._admission = admission = AdmissionControl(
            settings.max_queued, queue, budget, replies, self._counters, clock, batch_wait
        )
        self._dispatcher = Dispatcher(
            settings,
            policy,
            queue,
            budget,
            admission,
            replies,
            batch_wait,
            clock,
            on_slot_gone=self._on_slot_gone,
            on_stuck=self._server.context.report.stuck,
        )
        self._epoll, self._urgent_epoll = select.epoll(), select.epoll()
        self._connection_context = ConnectionContext(
            settings, clock, budget, queue, admission, self._epoll.modify, self._ended.append, tls
        )
        self._rendezvous.close_but(self._number)
        self._waiting_slots = self._rendezvous.sockets[self._number]
        self._watch_urgent(self._waiting_slots.fileno(), self._on_waiting_slots)
        while not self._dispatcher.slots:
            self._epoll.poll()
            self._accept_slots()
        self._server.mark_ready()

    def _can_run(self) -> bool:
        return self._dispatcher.can_run()

    # The loop

    def run(self) -> None:
        """Serve until drained."""
        acceptor = Acceptor(self._server)
        self._watch_urgent(acceptor.sock.fileno(), partial(self._accept, acceptor))
        self._watch(self._server.wakeup.fd, lambda mask: None)
        sweep_at = self._clock.tick() + _SWEEP_S
        while not self._server.draining:
            self._round(sweep_at)
            if self._clock.now >= sweep_at:
                sweep_at = self._clock.now + _SWEEP_S
                self._sweep()
        self._resume()
        self._epoll.unregister(acceptor.sock)
        self._urgent_epoll.unregister(acceptor.sock)
        self._epoll.unregister(self._server.wakeup.fd)
        for accepted in acceptor.accept_pending():
            self._add_connection(*accepted)
        self._finish()
        self._dispatcher.close()

    def _round(self, until: float) -> None:
        """Wait for events until a moment, handle them, and dispatch what waits then."""
        admission = self._admission
        events = self._poll(until)
        now = self._clock.tick()
        crowded = len(events) == _MAX_EVENTS
        if crowded:
            self._measure_backlog(*events[0])
        else:
            admission.caught_up()
        self._handle(events)
        if crowded:  # there may be more, and workers that wait among them
            self._handle(self._urgent_epoll.poll(0))
        admission.settle()
        if self._queue.ready:
            self._dispatcher.dispatch()
            if now >= self._expire_at:
                self._expire_at = now + _EXPIRE_S
                admission.expire()
        if self._ended:
            self._close_ended()
        if self._resume_at is not None and now >= self._resume_at:
            self._resume()

    def _poll(self, until: float) -> list[tuple[int, int]]:
        wake_at = self._wake_at(until)
        busy_poll = self._poll_for_replies if self._budget.request_bytes else self._poll_for_requests
        if wake_at is until and (events := busy_poll.poll(self._poll_now)) is not None:
            return events
        events = self._epoll.poll(max(0.0, wake_at - self._clock.tick()), _MAX_EVENTS)
        busy_poll.woke_up()
        return events

    def _poll_now(self) -> list[tuple[int, int]] | None:
        return self._epoll.poll(0, _MAX_EVENTS) or None

    def _measure_backlog(self, fd: int, mask: int) -> None:
        """Report how long the first of many connections has waited to be read."""
        connection = self._connections.get(fd)
        if connection is not None and mask & select.EPOLLIN:
            self._admission.fell_behind(arrived_before_s(connection.sock))

    def _handle(self, events: list[tuple[int, int]]) -> None:
        connections = self._connections
        for fd, mask in events:
            connection = connections.get(fd)
            if connection is not None:
                connection.on_event(mask)
            elif (handler := self._handlers.get(fd)) is not None:
                handler(mask)

    def _wake_at(self, until: float) -> float:
        if self._resume_at is not None:
            until = min(until, self._resume_at)
        if not self._queue.ready:
            return until
        hold_until = self._dispatcher.hold_until
        return min(until, self._expire_at) if hold_until is None else min(until, self._expire_at, hold_until)

    def _watch(self, fd: int, handler: Callable[[int], None]) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, select.EPOLLIN)

    def _watch_urgent(self, fd: int, handler: Callable[[int], None]) -> None:
        """Watch a descriptor that gets a turn before the rest of a crowd."""
        self._watch(fd, handler)
        self._urgent_epoll.register(fd, select.EPOLLIN)

    def _pause(self, sock: socket.socket) -> None:
        """Ignore a listening socket for a while: there is no descriptor for a new connection. Others are served."""
        self._paused.append(sock)
        self._resume_at = self._clock.now + PAUSE_S
        self._watch_paused(0)

    def _resume(self) -> None:
        self._watch_paused(select.EPOLLIN)
        self._paused.clear()
        self._resume_at = None

    def _watch_paused(self, events: int) -> None:
        for sock in self._paused:
            self._epoll.modify(sock, events)
            self._urgent_epoll.modify(sock, events)

    # Connections

    def _accept(self, acceptor: Acceptor, mask: int) -> None:
        try:
            for _ in range(_MAX_ACCEPTS):
                accepted = acceptor.accept(pause=False)
                if accepted is None:
                    return
                self._add_connection(*accepted)
        except OutOfDescriptors:
            self._pause(acceptor.sock)

    def _add_connection(self, sock: socket.socket, peer: str) -> None:
        limit = self._settings.max_connections
        refusal = None
        if len(self._connections) >= limit:
            refusal = too_many_connections(limit)
            if len(self._connections) >= limit + _MAX_REFUSING:
                self._counters.add_refused()
                sock.close()
                return
        connection = FrontConnection(sock, peer, self._connection_context, refusal)
        self._connections[connection.fd] = connection
        self._counters.connection_opened()
        self._epoll.register(connection.fd, select.EPOLLIN)

    def _close_ended(self) -> None:
        ended = self._ended.copy()
        self._ended.clear()
        for connection in ended:
            if self._connections.get(connection.fd) is connection:
                self._close(connection)

    def _close(self, connection: FrontConnection) -> None:
        del self._connections[connection.fd]
        self._admission.remove_client(connection)
        connection.close()
        self._counters.connection_closed()

    def _sweep(self) -> None:
        """Close connections that are late, report workers that are stuck, and write the counters."""
        short = self._budget.clear_shortage()
        for connection in list(self._connections.values()):
            deadline = connection.deadline()
            if deadline is not None and self._clock.now >= deadline[0]:
                log.info("%s: closed: %s", connection.peer, deadline[1])
                self._close(connection)
            elif short and connection.stalled:
                log.info("%s: closed: it holds memory that others need, and makes no headway", connection.peer)
                self._close(connection)
        self._dispatcher.report_stuck()
        self._budget.trim()
        self._admission.report()

    # Slots

    def _on_waiting_slots(self, mask: int) -> None:
        try:
            self._accept_slots()
        except OutOfDescriptors:
            self._pause(self._waiting_slots)

    def _accept_slots(self) -> None:
        while True:
            self._reserve_descriptors(accepting=1)
            accepted = self._rendezvous.accept(self._number, self._budget.arena_fd)
            if accepted is None:
                break
            sock, hello = accepted
            slot = Slot(sock, hello, self._epoll.modify)
            self._about.update(hello.about)
            self._admission.set_model_limits(hello.about.get("max_waiting", {}))
            self._dispatcher.add_slot(slot)
            self._watch_urgent(slot.fd, partial(self._dispatcher.on_slot, slot))
            log.debug("%s connected", slot.label)
        self._reserve_descriptors()

    def _on_slot_gone(self, fd: int) -> None:
        self._handlers.pop(fd, None)
        self._reserve_descriptors()

    def _reserve_descriptors(self, *, accepting: int = 0) -> None:
        """Reserve descriptors for the slots that may still connect, except for those that are being accepted."""
        most = self._settings.worker_processes * (self._settings.slots + 1)
        self._spares.resize(most - len(self._dispatcher.slots) - accepting)

    # The end

    def _finish(self) -> None:
        """Answer what has arrived, wait for what is arriving, close the rest."""
        sweep_at = self._clock.tick()
        while self._connections:
            self._round(self._clock.tick() + _DRAIN_STEP_S)
            for connection in list(self._connections.values()):
                if connection.pending or connection.unsent or connection.mid_message:
                    continue
                if connection.served or self._clock.now - connection.opened > _NEWCOMER_S:
                    self._close(connection)
            if self._clock.now >= sweep_at:
                sweep_at = self._clock.now + _SWEEP_S
                self._sweep()

    def drain(self) -> None:
        """Finish the requests in hand, then end; safe in a signal handler."""
        self._server.drain()
