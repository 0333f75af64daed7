"""What every process counts by the clock: how late its loop is, what it asks of Redis.

Counts that are kept elsewhere in a process begin at 0 with each process. Its row does
not: so a row takes over what they have grown by, never the counts themselves.
"""

from __future__ import annotations

from collections.abc import Callable

from broker.metrics.slots import Row

WINDOW_S = 15.0
"""A scrape comes at least this often. What was worst stays visible for that long."""


class Peak:
    """The largest value of the last ``WINDOW_S`` to twice as much seconds."""

    def __init__(self) -> None:
        self._before = self._now = 0.0
        self._until = 0.0

    def note(self, value: float, now_s: float) -> float:
        """Take note of *value* and return the peak."""
        if now_s >= self._until:
            self._before, self._now = self._now, 0.0
            self._until = now_s + WINDOW_S
        self._now = max(self._now, value)
        return max(self._before, self._now)


class Growth:
    """Adds to a slot what a count of this process has grown by.

    Args:
        values: The process's row.
        slot: Of a counter.
        count: Says how much it is by now; it began at 0 with the process.
    """

    def __init__(self, values: Row, slot: int, count: Callable[[], int]) -> None:
        self._values = values
        self._slot = slot
        self._count = count
        self._taken = 0

    def take(self) -> None:
        """Take over what is new."""
        count = self._count()
        self._values[self._slot] += count - self._taken
        self._taken = count


class LoopLag:
    """How late timers run, as the peak that a scrape shows."""

    def __init__(self, values: Row, slot: int) -> None:
        self._values = values
        self._slot = slot
        self._peak = Peak()

    def note(self, due_s: float, now_s: float) -> None:
        """A timer that was due at *due_s* has run."""
        self._values[self._slot] = self._peak.note(max(0.0, now_s - due_s), now_s)
