"""The shared memory in which each process counts in a row of its own.

A row is ``catalog.row_width()`` doubles with one writer: the process whose index it
has on the board. Doubles hold whole numbers exactly up to 2**53. Aligned 8-byte
stores do not tear on x86-64 and arm64, so a scrape needs no lock.

A row outlives its process: the next worker of the same index counts on, so counters
never go backward. Gauges are zeroed between the two.
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_left
from typing import TypeAlias

from broker.metrics.catalog import CATALOG, row_width
from broker.metrics.metric import BUCKETS_S, HISTOGRAM_WIDTH, Kind

Row: TypeAlias = "memoryview[float]"
"""The numbers of one process, indexed by the slots of the catalog."""

# Rows begin at a cache line, so that processes do not slow each other down.
_STRIDE = -(-row_width() // 8) * 8

_GAUGE_SLOTS = tuple(
    slot
    for metric in CATALOG
    if metric.kind is Kind.GAUGE
    for slot in metric.slots.values()
)


class Slots:
    """The rows of all processes of a pod in one piece of anonymous shared memory.

    Attributes:
        fd: The memory; children attach with the inherited descriptor.
        worker_count: How many workers the pod has; there are two rows more.
    """

    def __init__(self, fd: int, worker_count: int) -> None:
        self.fd = fd
        self.worker_count = worker_count
        self._mmap = mmap.mmap(fd, _size_bytes(worker_count))
        self._values = memoryview(self._mmap).cast("d")
        self._rows: list[Row] = [
            self._values[row * _STRIDE : row * _STRIDE + row_width()]
            for row in range(worker_count + 2)
        ]

    @classmethod
    def create(cls, worker_count: int) -> Slots:
        """Make the memory for a pod of *worker_count* workers, all numbers zero."""
        fd = os.memfd_create("broker-metrics")
        os.ftruncate(fd, _size_bytes(worker_count))
        return cls(fd, worker_count)

    @property
    def rows(self) -> list[Row]:
        """All rows: the reader's, the workers' 1 to N, the supervisor's."""
        return self._rows

    def row(self, index: int) -> Row:
        """The row of one process; only that process writes to it."""
        return self._rows[index]

    def clear_gauges(self, index: int) -> None:
        """Zero what a process that is gone last said about the present."""
        row = self._rows[index]
        for slot in _GAUGE_SLOTS:
            row[slot] = 0.0

    def close(self) -> None:
        """Unmap the memory; the descriptor stays with its owner."""
        for row in self._rows:
            row.release()
        self._rows.clear()
        self._values.release()
        self._mmap.close()


def observe(values: Row, slot: int, seconds: float) -> None:
    """Count *seconds* in the histogram that starts at *slot* of a row."""
    values[slot + bisect_left(BUCKETS_S, seconds)] += 1.0
    values[slot + HISTOGRAM_WIDTH - 1] += seconds


def _size_bytes(worker_count: int) -> int:
    return (worker_count + 2) * _STRIDE * 8
