"""What stands in a slot of the scoreboard, and where.

observe(queue_us, compute_us, batch_size) --> three buckets and three sums of a slot --histograms(slots)--> Histogram
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import TypeAlias

from thriftserve.status import MEASURES, Measure
from thriftserve_client.histogram import Histogram

#: Cells of one slot, or of all of them: signed 8-byte integers.
Cells: TypeAlias = "memoryview[int]"
Observe = Callable[[int, int, int], None]


class Cell(IntEnum):
    """Cells of a slot, 8 bytes each."""

    PID = 0
    PARENT = 1
    INDEX = 2
    PHASE = 3
    STARTED_NS = 4
    REQUESTS = 5
    ERRORS = 6
    IN_FLIGHT = 7
    CONNECTIONS = 8
    REFUSED = 9
    RESTARTS = 10
    PAST_REQUESTS = 11
    PAST_ERRORS = 12
    ROLE = 13
    QUEUED = 14
    QUEUED_BYTES = 15
    #: Odd while numbers of a process that has ended are on their way into this slot.
    MOVES = 16
    DEVICE = 17
    NOTE = 19
    #: Of a worker: the plan whose models it has loaded. Of the server: how often its models' state has changed.
    PLAN = 27
    HISTOGRAMS = 28


#: Texts, UTF-8, filled up with zeros.
DEVICE_CELLS = slice(Cell.DEVICE, Cell.NOTE)
NOTE_CELLS = slice(Cell.NOTE, Cell.PLAN)


def _cells_of(measure: Measure) -> int:
    return len(measure.bounds) + 2  # a bucket for each bound, one above them all, the sum


SLOT_CELLS = Cell.HISTOGRAMS + sum(map(_cells_of, MEASURES))
#: The cells that are added to the past when a process ends: they only grow.
HISTOGRAM_CELLS = range(Cell.HISTOGRAMS, SLOT_CELLS)
_FIRST_CELLS = tuple(Cell.HISTOGRAMS + sum(map(_cells_of, MEASURES[:at])) for at in range(len(MEASURES)))
_INTEGER_BITS = 64


def observer(cells: Cells, slot_at: int) -> Observe:
    """What counts a request in the histograms of the slot that begins at a cell, for one thread at a time.

    It takes the time queued and the time computed (microseconds), and the rows of the run.
    """
    queue_at, compute_at, batch_at = ([slot_at + cell for cell in _bucket_cells(at)] for at in range(len(MEASURES)))
    queue_sum, compute_sum, batch_sum = (
        slot_at + first + _cells_of(measure) - 1 for first, measure in zip(_FIRST_CELLS, MEASURES, strict=True)
    )

    def observe(queue_us: int, compute_us: int, batch_size: int) -> None:
        # A value less one has as many bits as the power of two that bounds it has zeros.
        cells[queue_at[(queue_us - 1).bit_length()]] += 1
        cells[queue_sum] += queue_us
        cells[compute_at[(compute_us - 1).bit_length()]] += 1
        cells[compute_sum] += compute_us
        cells[batch_at[(batch_size - 1 if batch_size else 0).bit_length()]] += 1
        cells[batch_sum] += batch_size

    return observe


def _bucket_cells(at: int) -> list[int]:
    """The cell of a slot in which a measure counts a value, by the bits of that value less one."""
    powers = [bound.bit_length() - 1 for bound in MEASURES[at].bounds]
    return [_FIRST_CELLS[at] + min(max(bits - powers[0], 0), len(powers)) for bits in range(_INTEGER_BITS + 1)]


def histograms(slots: Sequence[Cells]) -> tuple[Histogram, ...]:
    """The histograms of several slots added up, one for each of `MEASURES`."""
    found = []
    for first, measure in zip(_FIRST_CELLS, MEASURES, strict=True):
        own = slice(first, first + _cells_of(measure))
        *counts, total = (sum(column) for column in zip(*(slot[own] for slot in slots), strict=True))
        found.append(Histogram(measure.name, measure.unit, measure.bounds, tuple(counts), total))
    return tuple(found)


def write_text(cells: Cells, text: str) -> None:
    """Puts a text into cells; cut where it is too long for them."""
    size = cells.nbytes
    cells.cast("B")[:] = memoryview(text.encode()[:size].ljust(size, b"\0"))


def read_text(cells: Cells) -> str:
    """The text that `write_text` put there."""
    return cells.tobytes().rstrip(b"\0").decode(errors="ignore")
