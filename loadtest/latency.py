"""Percentiles of counted latencies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

from loadtest.fleet.tally import BUCKET_NS

_LONGEST_US = 10 * 60 * 1_000_000


class Latencies:
    """A histogram with three significant digits, up to ten minutes."""

    def __init__(self) -> None:
        self._histogram: Any = HdrHistogram(1, _LONGEST_US, 3)

    @classmethod
    def merged(cls, parts: Iterable[Mapping[str | int, int]]) -> Latencies:
        """Add up counts by step of ``BUCKET_NS``, as the fleet sends them."""
        latencies = cls()
        step_us = BUCKET_NS // 1000
        for part in parts:
            for bucket, count in part.items():
                value_us = min(_LONGEST_US, (int(bucket) + 1) * step_us)
                latencies._histogram.record_value(value_us, count)
        return latencies

    @property
    def count(self) -> int:
        """Events counted."""
        total: int = self._histogram.get_total_count()
        return total

    def percentile_ms(self, percent: float) -> float:
        """The latency that *percent* of the events did not exceed; 0 if none came."""
        value: float = self._histogram.get_value_at_percentile(percent)
        return value / 1000 if self.count else 0.0

    @property
    def max_ms(self) -> float:
        """The longest latency."""
        value: float = self._histogram.get_max_value()
        return value / 1000 if self.count else 0.0

    def figures(self, prefix: str = "") -> dict[str, float]:
        """p50, p90, p99 and max in milliseconds, by name."""
        return {
            f"{prefix}p50_ms": self.percentile_ms(50),
            f"{prefix}p90_ms": self.percentile_ms(90),
            f"{prefix}p99_ms": self.percentile_ms(99),
            f"{prefix}max_ms": self.max_ms,
        }
