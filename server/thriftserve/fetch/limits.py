"""What a fetch may take, and how far it is.

Limits  -->  fetch  -->  Progress, several a second, to whoever shows it
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from thriftserve.errors import DeadlineExceeded, ResourceExhausted

_MIB = 1 << 20
_GIB = 1 << 30


class TooLarge(ResourceExhausted):
    """It is larger than a fetch may be; so it will be the next time."""

    retryable = False


@dataclass(frozen=True)
class Limits:
    """Bounds of one fetch. Sizes in bytes, times in seconds."""

    #: Of the download.
    max_bytes: int = 16 * _GIB
    #: Of what is unpacked, all files together.
    max_unpacked_bytes: int = 32 * _GIB
    #: Unpacked bytes for each packed one; only what comes after the first `free_bytes` is held to it.
    max_ratio: int = 300
    free_bytes: int = 256 * _MIB
    #: Files, directories and links in an archive.
    max_entries: int = 20_000
    #: The whole fetch.
    timeout_s: float = 3600.0
    #: Silence on a connection, and the time to make one.
    stall_s: float = 30.0
    #: Failures in a row, without a byte between them, that a part survives.
    retries: int = 5
    #: Wait after the first of them; it doubles with each.
    backoff_s: float = 0.5
    max_backoff_s: float = 15.0
    #: Connections at once, where the server answers ranges.
    connections: int = 4
    #: Bytes a connection asks for at a time.
    part_bytes: int = 16 * _MIB
    redirects: int = 5


class Phase(Enum):
    """What a fetch is at."""

    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    UNPACKING = "unpacking"
    CHECKING = "checking"
    LANDED = "landed"


@dataclass(frozen=True)
class Progress:
    """How far a fetch is. Bytes of the phase it is at; a total of None is not known."""

    phase: Phase
    done: int = 0
    total: int | None = None

    def __str__(self) -> str:
        if not self.total:
            return f"{self.phase.value} {self.done / _MIB:.1f} MiB" if self.done else self.phase.value
        share = 100 * self.done / self.total
        return f"{self.phase.value} {self.done / _MIB:.1f} of {self.total / _MIB:.1f} MiB ({share:.0f} %)"


Report = Callable[[Progress], None]


class Deadline:
    """The moment by which a fetch must be done."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._end = time.monotonic() + timeout_s

    @property
    def left_s(self) -> float:
        """Seconds until it; never negative."""
        return max(0.0, self._end - time.monotonic())

    def check(self) -> None:
        """Raises DeadlineExceeded once it is over."""
        if not self.left_s:
            raise DeadlineExceeded(
                f"the fetch was not done within {self._timeout_s:g} s; what is downloaded is kept for the next try"
            )
