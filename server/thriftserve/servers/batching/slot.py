"""A worker's slot, as its front sees it: idle, or with a batch or two to answer.

    send(requests) --> the worker's socket        readable --> Replies, each to its request

A slot whose worker died shows by the end of its stream. The states of a slot are in `life.SLOT_LIFE`.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections import deque
from collections.abc import Callable

from thriftserve.rpc import BatchHint
from thriftserve.servers.batching.ipc import READ_BYTES, Hello, Replies, ReplyKind, pack_batch, reply_reader
from thriftserve.servers.batching.life import SLOT_LIFE, SlotEvent, SlotState, next_state
from thriftserve.servers.batching.request_queue import Request
from thriftserve_client.wire.message_socket import MAX_SEGMENTS, drop_sent

# Plain names: access to a member of an enum takes ten times as long.
_IDLE, _BUSY, _LEAVING = SlotState.IDLE, SlotState.BUSY, SlotState.LEAVING
_BATCH_SENT, _BATCH_DONE, _ALL_DONE = SlotEvent.BATCH_SENT, SlotEvent.BATCH_DONE, SlotEvent.ALL_DONE
_LEAVE = ReplyKind.LEAVE


class WorkerGone(Exception):
    """The worker's end of the socket was closed."""


class Slot:
    """The front's end of one slot.

    Args:
        sock: connected; the slot owns it.
        hello: what the worker said.
        watch: sets the events to wait for on a descriptor.
    """

    def __init__(self, sock: socket.socket, hello: Hello, watch: Callable[[int, int], None]) -> None:
        sock.setblocking(True)
        self.sock = sock
        self.fd = sock.fileno()
        self.pid = hello.pid
        self.label = f"worker {hello.index} (pid {hello.pid}) slot {hello.slot}"
        self.hint = BatchHint(hello.requests)
        self.state = SlotState.IDLE
        #: The batches that it has, oldest first; in them None for a request that it has answered.
        self.batches: deque[list[Request | None]] = deque()
        #: When it began with the oldest, monotonic seconds.
        self.since = 0.0
        self._watch = watch
        self._reader = reply_reader()
        self._unsent: list[memoryview] = []

    @property
    def room(self) -> int:
        """The number of batches that it may be sent now."""
        if self.state is _IDLE or self.state is _BUSY:
            return self.hint.depth - len(self.batches) if self.hint.requests else 0
        return 0

    def send(self, requests: list[Request], now: float) -> None:
        """Send it a batch.

        Raises:
            OSError: the worker is gone; the batch counts as sent.
        """
        self.state = next_state(SLOT_LIFE, self.state, _BATCH_SENT)
        if not self.batches:
            self.since = now
        self.batches.append([*requests])
        data = b"".join(pack_batch([request.place for request in requests]))
        if self._unsent:
            self._unsent.append(memoryview(data))
            return
        sent = 0
        with contextlib.suppress(BlockingIOError):
            sent = self.sock.send(data, socket.MSG_DONTWAIT)
        if sent < len(data):
            self._unsent = [memoryview(data)[sent:]]
            self._watch(self.fd, select.EPOLLIN | select.EPOLLOUT)

    def on_event(self, mask: int) -> list[Replies]:
        """Send the rest of a batch, and return the replies that came.

        Raises:
            WorkerGone, OSError: the worker ended.
        """
        if self._unsent and mask & select.EPOLLOUT:
            self._send_rest()
        if mask & ~select.EPOLLOUT:
            return self._read()
        return []

    def _send_rest(self) -> None:
        try:
            sent = self.sock.sendmsg(self._unsent[:MAX_SEGMENTS], [], socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        self._unsent = drop_sent(self._unsent, sent)
        if not self._unsent:
            self._watch(self.fd, select.EPOLLIN)

    def _read(self) -> list[Replies]:
        try:
            wanted = self._reader.wanted()
            if wanted is None:
                data = self.sock.recv(READ_BYTES, socket.MSG_DONTWAIT)
                if data:
                    return self._reader.feed(data)
            elif size := self.sock.recv_into(wanted, 0, socket.MSG_DONTWAIT):
                replies = self._reader.filled(size)
                return [replies] if replies is not None else []
        except BlockingIOError:
            return []
        raise WorkerGone

    def end_batch(self, kind: ReplyKind, now: float, *, answered: bool) -> bool:
        """Take note of what the replies say of the slot; return whether it is done and must be closed.

        Args:
            kind: of the message.
            now: the present.
            answered: whether the message had the replies of its oldest batch.
        """
        if kind is _LEAVE:
            self.state = next_state(SLOT_LIFE, self.state, SlotEvent.LEAVE)
        elif answered:
            self.batches.popleft()
            self.since = now
            event = _BATCH_DONE if self.batches else _ALL_DONE
            self.state = next_state(SLOT_LIFE, self.state, event)
        return self.state is _LEAVING and not self.batches

    def close(self, unread: bool = False) -> tuple[list[Request], list[Request]]:
        """Close the socket.

        Args:
            unread: whether the worker had not read all that it was sent.

        Returns:
            The requests that it did not answer: those that it had begun, or may have, and the others.
        """
        self.state = next_state(SLOT_LIFE, self.state, SlotEvent.END)
        self.sock.close()
        # It begins a batch when the one before is answered. What it did not read is the end of the last one.
        begun = 0 if unread and len(self.batches) == 1 else 1
        batches, self.batches = list(self.batches), deque()
        left = [
            [request for batch in part for request in batch if request] for part in (batches[:begun], batches[begun:])
        ]
        return left[0], left[1]
