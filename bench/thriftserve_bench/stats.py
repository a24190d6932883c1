"""Statistics of latencies: counts to three digits, HdrHistograms, quantiles.

    latencies  -->  {microseconds to three digits: calls}  -->  quantile
    latencies  -->  HdrHistogram  --encode-->  text in the results  --merge-->  quantile_us

Histograms of several windows or processes add up exactly; their quantiles do not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from hdrh.histogram import HdrHistogram

from thriftserve_bench.records.calls import Window

#: Ascending pairs of a latency in microseconds and the number of calls that took it.
CountedLatencies = Sequence[tuple[int, int]]

#: An HdrHistogram of ours has three significant digits from 1 microsecond to 10 minutes.
_HIGHEST_US = 600_000_000
_DIGITS = 3


def three_digits(number: int) -> int:
    """Return a number cut to its first three digits."""
    step = 1
    while number >= 1000 * step:
        step *= 10
    return number // step * step


def merge_counts(counts: Iterable[CountedLatencies]) -> list[tuple[int, int]]:
    """Add up counted latencies of several windows."""
    total: Counter[int] = Counter()
    for latencies in counts:
        total.update(dict(latencies))
    return sorted(total.items())


def quantile(counted: CountedLatencies, part: float) -> float:
    """Return the smallest latency that at least `part` of the calls did not exceed.

    Args:
        counted: ascending, not empty.
        part: between 0 and 1.
    """
    wanted = part * sum(count for _, count in counted)
    seen = 0
    for latency, count in counted:
        seen += count
        if seen >= wanted:
            return float(latency)
    return float(counted[-1][0])


def agree(values: Sequence[float], within: float) -> bool:
    """Return whether the largest and the smallest value differ by at most `within` of the median."""
    return max(values) - min(values) <= within * median(values)


def histogram_ns(times_ns: Iterable[int]) -> Any:
    """Return a histogram, in microseconds, of times in nanoseconds."""
    return histogram_us(time_ns // 1000 for time_ns in times_ns)


def histogram_us(times_us: Iterable[int]) -> Any:
    """Return a histogram of times in microseconds; a time above 10 minutes counts as 10 minutes."""
    histogram = HdrHistogram(1, _HIGHEST_US, _DIGITS)
    for time_us in times_us:
        histogram.record_value(min(max(time_us, 0), _HIGHEST_US))
    return histogram


def encode_histogram(histogram: Any) -> str:
    """Return a histogram as text (HdrHistogram's V2 format, compressed, base64); an empty one as an empty text."""
    return histogram.encode().decode("ascii") if histogram.get_total_count() else ""


def merge_histograms(texts: Iterable[str]) -> Any:
    """Add up encoded histograms."""
    total = HdrHistogram(1, _HIGHEST_US, _DIGITS)
    for text in filter(None, texts):
        total.add(HdrHistogram.decode(text.encode("ascii")))
    return total


def quantile_us(histogram: Any, part: float) -> float | None:
    """Return the microseconds that a part (0 to 1) of the times did not exceed, or None for an empty histogram."""
    if not histogram.get_total_count():
        return None
    return float(histogram.get_value_at_percentile(part * 100))


@dataclass(frozen=True)
class WindowFigures:
    """Windows in numbers. Rates and CPU are medians over the windows, latencies come from all calls together."""

    calls_per_s: float
    p50_us: float
    p99_us: float
    #: User and system CPU of all the server's processes, for each call.
    cpu_us: float
    client_cpu_us: float
    rss_mib: float
    pss_mib: float
    calls: int
    failures: int


def window_figures(windows: Sequence[Window]) -> WindowFigures | None:
    """Return the figures of windows, or None if no call was answered."""
    answered = [window for window in windows if window.calls and window.elapsed_s]
    if not answered:
        return None
    latencies = merge_counts(window.latencies_us for window in answered)
    return WindowFigures(
        calls_per_s=median(window.calls_per_s for window in answered),
        p50_us=quantile(latencies, 0.50),
        p99_us=quantile(latencies, 0.99),
        cpu_us=median(window.server_cpu_s / window.calls for window in answered) * 1e6,
        client_cpu_us=median(window.client_cpu_s / window.calls for window in answered) * 1e6,
        rss_mib=max(window.rss_bytes for window in answered) / 2**20,
        pss_mib=max(window.pss_bytes for window in answered) / 2**20,
        calls=sum(window.calls for window in windows),
        failures=sum(window.failures for window in windows),
    )
