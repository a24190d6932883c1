"""A worker's slot, as its front sees it: idle, or with a batch or two in hand.

    give(requests) --> the worker's socket        readable --> Answers, each to its request

A slot whose worker died shows by the end of its stream.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections import deque
from typing import TYPE_CHECKING

from thriftserve.servers.batching.ipc import READ_BYTES, Hello, Replies, ReplyReader, SlotHint, pack_batch
from thriftserve.servers.batching.request_queue import Request
from thriftserve_client.wire.message_socket import MAX_SEGMENTS, drop_sent

if TYPE_CHECKING:
    from thriftserve.servers.batching.front import TBatchingFront


class WorkerGone(Exception):
    """The worker's end of the socket was closed."""


class Slot:
    """The front's end of one slot."""

    def __init__(self, sock: socket.socket, hello: Hello, front: TBatchingFront) -> None:
        sock.setblocking(True)
        self.sock = sock
        self.fd = sock.fileno()
        self.pid = hello.pid
        self.label = f"worker {hello.index} (pid {hello.pid}) slot {hello.slot}"
        self.advice = SlotHint(take=hello.take)
        #: The batches in its hand, oldest first; in them None for what it has answered.
        self.batches: deque[list[Request | None]] = deque()
        #: When it began with the oldest, monotonic seconds.
        self.since = 0.0
        #: True once it takes no more.
        self.leaving = False
        self._front = front
        self._reader = ReplyReader()
        self._unsent: list[memoryview] = []

    @property
    def room(self) -> int:
        """Batches that it may be handed now."""
        return self.advice.depth - len(self.batches) if self.advice.take and not self.leaving else 0

    def give(self, requests: list[Request], now: float) -> None:
        """Hands it a batch.

        Raises:
            OSError: the worker is gone; the batch counts as in its hand.
        """
        if not self.batches:
            self.since = now
        self.batches.append([*requests])
        parts = pack_batch([request.place for request in requests])
        data = b"".join(parts)
        if self._unsent:
            self._unsent.append(memoryview(data))
            return
        sent = 0
        with contextlib.suppress(BlockingIOError):
            sent = self.sock.send(data, socket.MSG_DONTWAIT)
        if sent < len(data):
            self._unsent = [memoryview(data)[sent:]]
            self._front.watch(self.fd, select.EPOLLIN | select.EPOLLOUT)

    def on_event(self, mask: int) -> list[Replies]:
        """Sends on what is left of a batch, and reads answers.

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
            self._front.watch(self.fd, select.EPOLLIN)

    def _read(self) -> list[Replies]:
        try:
            wanted = self._reader.wanted()
            if wanted is None:
                data = self.sock.recv(READ_BYTES, socket.MSG_DONTWAIT)
                if data:
                    return self._reader.feed(data)
            elif size := self.sock.recv_into(wanted, 0, socket.MSG_DONTWAIT):
                whole = self._reader.filled(size)
                return [whole] if whole is not None else []
        except BlockingIOError:
            return []
        raise WorkerGone

    def close(self, unread: bool = False) -> tuple[list[Request], list[Request]]:
        """Closes the socket.

        Args:
            unread: the worker had not read all that it was sent.

        Returns:
            The requests in hand that it did not answer: those that it had begun, or may have, and the others.
        """
        self.sock.close()
        # It begins a batch when the one before is answered. What it did not read is the end of the last one.
        begun = 0 if unread and len(self.batches) == 1 else 1
        batches, self.batches = list(self.batches), deque()
        left = [
            [request for batch in part for request in batch if request] for part in (batches[:begun], batches[begun:])
        ]
        return left[0], left[1]
