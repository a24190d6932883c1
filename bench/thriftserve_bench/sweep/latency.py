"""Times counted in HdrHistograms: three significant digits from 1 microsecond to 10 minutes, the tail included.

nanoseconds  --counted-->  HdrHistogram  --encoded-->  text in the raw results  --merged-->  quantiles

Histograms of several windows or processes add up exactly, which their quantiles do not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hdrh.histogram import HdrHistogram

_HIGHEST_US = 600_000_000
_DIGITS = 3


def counted(times_ns: Iterable[int]) -> Any:
    """A histogram of times in nanoseconds, in microseconds."""
    return counted_us(time_ns // 1000 for time_ns in times_ns)


def counted_us(times_us: Iterable[int]) -> Any:
    """A histogram of times in microseconds; longer ones than 10 minutes count as 10 minutes."""
    histogram = HdrHistogram(1, _HIGHEST_US, _DIGITS)
    for time_us in times_us:
        histogram.record_value(min(max(time_us, 0), _HIGHEST_US))
    return histogram


def encoded(histogram: Any) -> str:
    """A histogram as text (HdrHistogram's own V2 form: compressed, base64); empty for an empty one."""
    return histogram.encode().decode("ascii") if histogram.get_total_count() else ""


def merged(texts: Iterable[str]) -> Any:
    """One histogram of several encoded ones."""
    total = HdrHistogram(1, _HIGHEST_US, _DIGITS)
    for text in texts:
        if text:
            total.add(HdrHistogram.decode(text.encode("ascii")))
    return total


def quantile_us(histogram: Any, part: float) -> float | None:
    """Microseconds that a part (0 to 1) of the times did not exceed; None where there are none."""
    if not histogram.get_total_count():
        return None
    return float(histogram.get_value_at_percentile(part * 100))
