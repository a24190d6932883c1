"""What a fetch may take, and how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from thriftserve.errors import DeadlineExceeded, ResourceExhausted

_MIB = 1 << 20
_GIB = 1 << 30


@dataclass(frozen=True)
class Limits:
    """The bounds of one fetch. Sizes in bytes, times in seconds."""

    #: Of the download.
    max_bytes: int = 16 * _GIB
    #: Of all unpacked files together.
    max_unpacked_bytes: int = 32 * _GIB
    #: Unpacked bytes for each packed one, beyond the first `free_bytes`. Variables of zeros compress 1000-fold.
    max_ratio: int = 300
    free_bytes: int = 256 * _MIB
    #: Files, directories and links in an archive.
    max_entries: int = 20_000
    #: The fetch from its begin to its end.
    timeout_s: float = 3600.0
    #: For a connection to be made, and for a server's silence.
    stall_s: float = 30.0
    #: Failures in a row, without a byte in between, that a part survives.
    retries: int = 5
    #: Before the second try; doubled before each of the others.
    backoff_s: float = 0.5
    max_backoff_s: float = 15.0
    #: At once, if the server answers ranges.
    connections: int = 4
    #: Of a range that is asked for.
    part_bytes: int = 16 * _MIB
    redirects: int = 5


class TooLarge(ResourceExhausted):
    """It is larger than a fetch may be; so it will be the next time."""

    retryable = False


class Phase(Enum):
    """What a fetch is doing."""

    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    UNPACKING = "unpacking"
    CHECKING = "checking"
    LANDED = "landed"


@dataclass(frozen=True)
class Progress:
    """How far a fetch is: bytes of its phase. A total of None is not known."""

    phase: Phase
    done: int = 0
    total: int | None = None

    def __str__(self) -> str:
        if not self.total:
            return f"{self.phase.value} {self.done / _MIB:.1f} MiB" if self.done else self.phase.value
        percent = 100 * self.done / self.total
        return f"{self.phase.value} {self.done / _MIB:.1f} of {self.total / _MIB:.1f} MiB ({percent:.0f} %)"


#: Called several times a second; what it raises ends the fetch.
ProgressCallback = Callable[[Progress], None]


class FetchDeadline:
    """The moment by which a fetch must be done. Threads may share one."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._end = time.monotonic() + timeout_s

    @property
    def left_s(self) -> float:
        """Seconds until then; never negative."""
        return max(0.0, self._end - time.monotonic())

    def check(self) -> None:
        """Raise DeadlineExceeded if it is over."""
        if not self.left_s:
            raise DeadlineExceeded(
                f"the fetch was not done within {self._timeout_s:g} s; what is downloaded is kept for the next try"
            )
