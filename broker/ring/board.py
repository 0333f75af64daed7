"""The board: one row of numbers per process, written by it and read by the others.

Words are native 8-byte unsigned integers, each with a single writer. Row 0 is the
reader's, rows 1 to N are the workers'. A last row is the supervisor's.
"""

from __future__ import annotations

import mmap
import os
import time

ROW_WORDS = 16

# Words of a row. Who writes them is the row's own process unless it says otherwise.
PID = 0
HEARTBEAT_NS = 1
"""CLOCK_MONOTONIC when the process's loop last turned."""
STATE = 2
CURSOR = 3
"""Ring position that the worker has drained up to; the reader's row has its head."""
PROBE_MS = 4
"""Stream id time of the last probe entry that this worker drained."""
REDIS_UP = 5
"""Reader: 1 while its connection is in order. Worker: the same for its own."""
WATCHES_REFUSED = 6
"""Reader: 1 while no further session can be watched (tracking table nearly full)."""
WATCHED = 7
"""Reader: how many sessions are watched."""
CONNECTIONS = 8
"""Worker: open connections."""
REDIS_UP_EVER = 9
"""Reader: 1 once its connection has been in order since the pod started."""

REDIS_IDENTITY = 10
"""Reader: a number for the server and history that it reads, 0 while it has none."""

# Values of STATE.
STARTING, READY, DRAINING = 0, 1, 2


class Board:
    """The rows of all processes of a pod in one piece of anonymous shared memory."""

    def __init__(self, fd: int, worker_count: int) -> None:
        self.fd = fd
        self.worker_count = worker_count
        self._mmap = mmap.mmap(fd, (worker_count + 2) * ROW_WORDS * 8)
        self.words = memoryview(self._mmap).cast("Q")

    @classmethod
    def create(cls, worker_count: int) -> Board:
        """Make the memory; children attach with its inherited ``fd``."""
        fd = os.memfd_create("broker-board")
        os.ftruncate(fd, (worker_count + 2) * ROW_WORDS * 8)
        return cls(fd, worker_count)

    def get(self, row: int, word: int) -> int:
        """Read one word of one row."""
        return self.words[row * ROW_WORDS + word]

    def set(self, row: int, word: int, value: int) -> None:
        """Write one word; only the row's own process may, the supervisor at start."""
        self.words[row * ROW_WORDS + word] = value

    def beat(self, row: int) -> None:
        """Say that the loop of *row* turns."""
        self.words[row * ROW_WORDS + HEARTBEAT_NS] = time.monotonic_ns()

    def silent_s(self, row: int) -> float:
        """Seconds since the last heartbeat of *row*."""
        return (time.monotonic_ns() - self.get(row, HEARTBEAT_NS)) / 1e9

    def clear(self, row: int) -> None:
        """Zero a row, before another process takes it over."""
        start = row * ROW_WORDS
        for word in range(start, start + ROW_WORDS):
            self.words[word] = 0

    def close(self) -> None:
        """Unmap the memory; the descriptor stays with its owner."""
        self.words.release()
        self._mmap.close()
