"""Absolute deadlines: how many events are due now, and when to look again."""

from __future__ import annotations

MIN_PERIOD_NS = 2_000_000
"""Above 500 events/s several events share a batch of this period."""


class Pace:
    """A fixed rate from a fixed start; falling behind does not lower the rate.

    Attributes:
        late_max_ns: The longest that a batch was behind its deadline.
        late_count: Batches that were more than 5 ms behind.
    """

    def __init__(self, rate: float, seconds: float, start_ns: int) -> None:
        self.rate = rate
        self.total = round(rate * seconds)
        self.sent = 0
        self.batches = 0
        self.late_max_ns = 0
        self.late_count = 0
        self._start_ns = start_ns
        self._period_ns = max(MIN_PERIOD_NS, round(1e9 / rate))
        self._tick = 0

    @property
    def finished(self) -> bool:
        """Whether every event of the run has been taken."""
        return self.sent >= self.total

    @property
    def deadline_ns(self) -> int:
        """When the next batch is due."""
        return self._start_ns + self._tick * self._period_ns

    def take(self, now_ns: int, most: int) -> int:
        """How many events to send at *now_ns*: all that are due, at most *most*."""
        late_ns = now_ns - self.deadline_ns
        self.late_max_ns = max(self.late_max_ns, late_ns)
        self.late_count += late_ns > 5_000_000
        self.batches += 1
        elapsed_ns = now_ns - self._start_ns
        self._tick = elapsed_ns // self._period_ns + 1
        due = int(elapsed_ns * self.rate / 1e9) + 1 - self.sent
        count = max(0, min(due, most, self.total - self.sent))
        self.sent += count
        return count

    def summary(self) -> dict[str, float]:
        """Figures for the report: events, and how late batches were."""
        return {
            "published": self.sent,
            "late_max_ms": self.late_max_ns / 1e6,
            "late_share": self.late_count / max(1, self.batches),
        }
