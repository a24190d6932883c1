"""The memory that a front holds for its clients, counted, and bounded by `max_queued_bytes`.

partial messages + whole requests + replies that clients do not read = used_bytes <= limit_bytes
"""

from __future__ import annotations

from typing import Protocol

from thriftserve.servers.batching.arena import Arena, Block

#: A large frame gets a block of the arena once so much of it has come, or all of it.
RESERVE_BYTES = 64 * 1024
#: Bytes of addresses that an arena has at most; its memory is bounded by `max_queued_bytes`.
_MAX_ADDRESS_BYTES = 1 << 40


class HeldRequest(Protocol):
    """As much of a request as its memory needs."""

    size: int
    block: Block | None


class MemoryBudget:
    """Counts what one front holds. One thread uses it.

    Args:
        limit_bytes: setting max_queued_bytes.
        max_message_bytes: the largest message.
    """

    __slots__ = ("_arena", "limit_bytes", "partial_bytes", "reply_bytes", "request_bytes", "short")

    def __init__(self, limit_bytes: int, max_message_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._arena = Arena(_address_bytes(limit_bytes, max_message_bytes), limit_bytes)
        #: Bytes of whole requests that are not answered.
        self.request_bytes = 0
        #: Bytes of messages that have not come whole.
        self.partial_bytes = 0
        #: Bytes of replies that could not be sent yet.
        self.reply_bytes = 0
        #: True if something was refused for want of memory since `clear_shortage`.
        self.short = False

    @property
    def arena_fd(self) -> int:
        """The descriptor of the arena, for workers."""
        return self._arena.fd

    @property
    def used_bytes(self) -> int:
        """Bytes that are held for clients, in all."""
        return self.request_bytes + self.partial_bytes + self.reply_bytes

    @property
    def exceeded(self) -> bool:
        """True if more is held than the limit."""
        return self.request_bytes + self.partial_bytes + self.reply_bytes > self.limit_bytes

    def clear_shortage(self) -> bool:
        """Return whether memory was short since the last call."""
        short, self.short = self.short, False
        return short

    def hold(self, request: HeldRequest) -> None:
        """Count a whole request."""
        self.request_bytes += request.size

    def release(self, request: HeldRequest) -> None:
        """Stop counting a request, and free its block if it has one."""
        self.request_bytes -= request.size
        if request.block is not None:
            self._arena.free(request.block)
            request.block = None

    def change_partial(self, size: int) -> None:
        """Count `size` bytes more of partial messages, or fewer if it is negative."""
        self.partial_bytes += size

    def change_replies(self, size: int) -> None:
        """Count `size` bytes more of unsent replies, or fewer if it is negative."""
        self.reply_bytes += size

    def allocate(self, size: int) -> Block | None:
        """Return a block of the arena, or None if it has no room."""
        return self._arena.allocate(size)

    def free(self, block: Block) -> None:
        """Free a block whose request is not counted."""
        self._arena.free(block)

    def trim(self) -> None:
        """Give unused memory back to the system if nothing is held."""
        if not self.used_bytes:
            self._arena.trim()


def _address_bytes(limit_bytes: int, max_message_bytes: int) -> int:
    """Return bytes of addresses that are enough for all frames under way, each of which has sent RESERVE_BYTES."""
    frames = limit_bytes // RESERVE_BYTES + 1
    return min(frames * max_message_bytes, _MAX_ADDRESS_BYTES) + limit_bytes
