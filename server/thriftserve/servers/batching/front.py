"""TBatchingServer's front: every connection, one queue, no model.

    epoll --> clients: frames in, answers out | slots: answers in, batches out | new clients | new slots
          --> dispatch() once a round, so that what came together runs together

It holds whole messages and never decodes a tensor. It is one thread on the readiness API; a worker's death, a
slow client or a full queue is an event like any other.
"""

from __future__ import annotations

import logging
import select
import socket
import ssl
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from thriftserve.servers.acceptor import PAUSE_S, Acceptor, OutOfDescriptors, SpareDescriptors, arrived_before_s
from thriftserve.servers.batching.admission import AdmissionControl
from thriftserve.servers.batching.connection import FrontConnection
from thriftserve.servers.batching.dispatcher import Dispatcher
from thriftserve.servers.batching.ipc import Rendezvous
from thriftserve.servers.batching.local_replies import FrontPolicy, LocalReplies
from thriftserve.servers.batching.slot import Slot
from thriftserve.servers.busy_poll import BusyPoll
from thriftserve.servers.connection import FAILURES, tell
from thriftserve.servers.context import ServerContext
from thriftserve.servers.nonblocking_connection import PeerGone
from thriftserve.status import WorkerRole
from thriftserve.supervisor.tls import tls_context

log = logging.getLogger(__name__)

_SWEEP_S = 1.0
#: Events that are dealt with before slots and new clients are looked at again: a crowd of clients must neither keep
#: workers waiting nor have the kernel drop those that connect (they try again after a second).
_EVENTS = 64
_EXPIRE_S = 0.01
_DRAIN_STEP_S = 0.02
#: Connections over the limit that are kept for the moment that it takes to refuse them.
_REFUSING = 64
#: Connections taken in a row, before the others get their turn.
_ACCEPTS = 16
#: A connection this young has not had the time to send its first request; a drain waits for it so long.
_NEWCOMER_S = 0.1


class TBatchingFront:
    """A front process."""

    def __init__(self, host: ServerContext, number: int, switchboard: Rendezvous, desk: FrontPolicy) -> None:
        self._host = host
        self.settings = host.settings
        self._switchboard = switchboard
        self._number = number
        self._desk = desk
        self._counters = host.context.counters
        self._clients: dict[int, FrontConnection] = {}
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._over: list[FrontConnection] = []
        #: Listening sockets that wait for a descriptor, and when they are tried again.
        self._paused: list[socket.socket] = []
        self._resume_at: float | None = None
        #: Descriptors that clients don't get: those of slots that are not there, or a worker that died with all in use
        #: could never be replaced.
        self._spares = SpareDescriptors()
        self._expire_at = 0.0
        self._about: dict[str, Any] = {}
        self.tls: ssl.SSLContext | None = None
        self.now = time.monotonic()
        #: An answer comes when a run is done, a request when a client sees fit: each has its own usual wait.
        self._for_answers = BusyPoll.among_several(host.settings.spin_us)
        self._for_requests = BusyPoll.among_several(host.settings.spin_us)
        self._epoll: select.epoll
        #: Slots and new clients alone, to look at them first.
        self._first: select.epoll

    def prepare(self) -> None:
        """Waits for the first slot: clients are taken once there is somebody to serve them."""
        self._host.context.counters.set_role(WorkerRole.FRONT)
        self.tls = tls_context(self.settings)
        processor = None
        if self._desk.make_processor is not None:
            processor = self._desk.make_processor(self._host.context, self._about)
        answers = LocalReplies(self._desk, processor, self.settings.protocol, self.settings.max_message_bytes)
        self.door = AdmissionControl(
            self.settings,
            answers,
            self._counters,
            ordered=self._desk.ordered,
            over=self._over.append,
        )
        stuck = self._host.context.report.stuck
        self._dispatcher = dispatcher = Dispatcher(
            self.settings, self._desk, answers, self.door, dropped=self._slot_gone, stuck=stuck
        )
        self._switchboard.close_but(self._number)
        self._epoll, self._first = select.epoll(), select.epoll()
        self._waiting_slots = self._switchboard.sockets[self._number]
        self._watch_first(self._waiting_slots.fileno(), self._on_waiting_slots)
        while not dispatcher.slots:
            self._epoll.poll()
            self._accept_slots()
        self._host.begin()

    # The loop

    def run(self) -> None:
        """Serves until drained."""
        acceptor = Acceptor(self._host)
        self._watch_first(acceptor.sock.fileno(), partial(self._accept, acceptor))
        self._watch_new(self._host.wakeup.fd, lambda mask: None)
        sweep_at = time.monotonic() + _SWEEP_S
        while not self._host.draining:
            self._round(sweep_at)
            if self.now >= sweep_at:
                sweep_at = self.now + _SWEEP_S
                self._sweep()
        self._resume()
        self._epoll.unregister(acceptor.sock)
        self._first.unregister(acceptor.sock)
        self._epoll.unregister(self._host.wakeup.fd)
        for taken in acceptor.last():
            self._adopt(*taken)
        self._finish()
        self._dispatcher.close()

    def _round(self, until: float) -> None:
        """Waits for events, does what they ask for, hands out what waits then."""
        dispatcher, door = self._dispatcher, self.door
        events = self._events(until)
        self.now = door.now = time.monotonic()
        crowded = len(events) == _EVENTS
        if crowded:
            self._look_behind(*events[0])
        else:
            door.backlog.up_to_date()
        self._deal_with(events)
        if crowded:  # there may be more, and workers that wait among them
            self._deal_with(self._first.poll(0))
        door.settle()
        if door.waiting.ready:
            dispatcher.dispatch()
            if self.now >= self._expire_at:
                self._expire_at = self.now + _EXPIRE_S
                dispatcher.expire()
        if self._over:
            self._end_over()
        if self._resume_at is not None and self.now >= self._resume_at:
            self._resume()

    def _events(self, until: float) -> list[tuple[int, int]]:
        wake_at = self._wake_at(until)
        spin = self._for_answers if self.door.held_bytes else self._for_requests
        if wake_at is until and (events := spin.soon(self._look)) is not None:
            return events
        events = self._epoll.poll(max(0.0, wake_at - time.monotonic()), _EVENTS)
        spin.slept()
        return events

    def _look(self) -> list[tuple[int, int]] | None:
        return self._epoll.poll(0, _EVENTS) or None

    def _look_behind(self, fd: int, mask: int) -> None:
        """Notes how long the first of many clients has waited to be read."""
        client = self._clients.get(fd)
        if client is not None and mask & select.EPOLLIN:
            self.door.backlog.unread(arrived_before_s(client.sock), self.now)

    def _deal_with(self, events: list[tuple[int, int]]) -> None:
        clients = self._clients
        for fd, mask in events:
            client = clients.get(fd)
            if client is not None:
                self._on_client(client, mask)
            elif (handler := self._handlers.get(fd)) is not None:
                handler(mask)

    def _wake_at(self, until: float) -> float:
        if self._resume_at is not None:
            until = min(until, self._resume_at)
        if not self.door.waiting.ready:
            return until
        held = self._dispatcher.hold_until
        return min(until, self._expire_at) if held is None else min(until, self._expire_at, held)

    def watch(self, fd: int, events: int) -> None:
        """Changes what is waited for on a descriptor."""
        self._epoll.modify(fd, events)

    def _watch_new(self, fd: int, handler: Callable[[int], None]) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, select.EPOLLIN)

    def _watch_first(self, fd: int, handler: Callable[[int], None]) -> None:
        """Watches what is looked at before clients, too."""
        self._watch_new(fd, handler)
        self._first.register(fd, select.EPOLLIN)

    def _pause(self, sock: socket.socket) -> None:
        """Leaves a listening socket alone for a while: there is no descriptor for who waits. Others are served."""
        self._paused.append(sock)
        self._resume_at = self.now + PAUSE_S
        self._watch_paused(0)

    def _resume(self) -> None:
        self._watch_paused(select.EPOLLIN)
        self._paused.clear()
        self._resume_at = None

    def _watch_paused(self, events: int) -> None:
        for sock in self._paused:
            self._epoll.modify(sock, events)
            self._first.modify(sock, events)

    # Clients

    def _accept(self, acceptor: Acceptor, mask: int) -> None:
        try:
            for _ in range(_ACCEPTS):
                taken = acceptor.take(pause=False)
                if taken is None:
                    return
                self._adopt(*taken)
        except OutOfDescriptors:
            self._pause(acceptor.sock)

    def _adopt(self, sock: socket.socket, peer: str) -> None:
        limit = self.settings.max_connections
        refusal = None
        if len(self._clients) >= limit:
            refusal = f"{limit} connections are open, the limit; try again later"
            if len(self._clients) >= limit + _REFUSING:
                self._counters.add_refused()
                sock.close()
                return
        client = FrontConnection(sock, peer, self, refusal)
        self._clients[client.fd] = client
        self._counters.connection_opened()
        self._epoll.register(client.fd, select.EPOLLIN)

    def _on_client(self, client: FrontConnection, mask: int) -> None:
        try:
            client.on_event(mask)
        except PeerGone:
            self._over.append(client)
        except FAILURES as error:
            tell(client.peer, error)
            self._over.append(client)
        else:
            if client.ending and client.finished:
                self._over.append(client)

    def _end_over(self) -> None:
        over, self._over[:] = list(self._over), []
        for client in over:
            if self._clients.get(client.fd) is client:
                self._end(client)

    def _end(self, client: FrontConnection) -> None:
        del self._clients[client.fd]
        self.door.forget(client)
        client.close()
        self._counters.connection_closed()

    def _sweep(self) -> None:
        short, self.door.short = self.door.short, False
        for client in list(self._clients.values()):
            due = client.deadline()
            if due is not None and self.now >= due[0]:
                log.info("%s: closed: %s", client.peer, due[1])
                self._end(client)
            elif short and client.stalled:
                log.info("%s: closed: it holds memory that others need, and makes no headway", client.peer)
                self._end(client)
        self._dispatcher.watch_slots()
        door = self.door
        if not door.held:
            door.arena.trim()
        self._counters.set_queued(len(door.waiting), door.held)

    # Slots

    def _on_waiting_slots(self, mask: int) -> None:
        try:
            self._accept_slots()
        except OutOfDescriptors:
            self._pause(self._waiting_slots)

    def _accept_slots(self) -> None:
        while True:
            self._reserve(accepting=1)
            found = self._switchboard.accept(self._number, self.door.arena.fd)
            if found is None:
                break
            sock, hello = found
            slot = Slot(sock, hello, self)
            self._about.update(hello.about)
            self.door.limits = hello.about.get("max_waiting", {})
            self._dispatcher.add_slot(slot)
            self._watch_first(slot.fd, partial(self._dispatcher.on_slot, slot))
            log.debug("%s is there", slot.label)
        self._reserve()

    def _slot_gone(self, fd: int) -> None:
        self._handlers.pop(fd, None)
        self._reserve()

    def _reserve(self, *, accepting: int = 0) -> None:
        """Keeps descriptors for the slots that may still come, but those that come right now."""
        most = self.settings.worker_processes * (self.settings.slots + 1)
        self._spares.keep(most - len(self._dispatcher.slots) - accepting)

    # The end

    def _finish(self) -> None:
        """Answers whatever has arrived, waits for what is arriving, closes the rest."""
        sweep_at = time.monotonic()
        while self._clients:
            self._round(time.monotonic() + _DRAIN_STEP_S)
            for client in list(self._clients.values()):
                if client.pending or client.unsent or client.mid_message:
                    continue
                if client.served or self.now - client.opened > _NEWCOMER_S:
                    self._end(client)
            if self.now >= sweep_at:
                sweep_at = self.now + _SWEEP_S
                self._sweep()

    def drain(self) -> None:
        """Finishes what is in hand, then ends."""
        self._host.drain()
