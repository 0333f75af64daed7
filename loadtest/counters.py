"""Counters of the load's own processes, in memory that the controller can read.

One row of native 8-byte words per process, each word with one writer.
"""

from __future__ import annotations

import mmap
import os

ROW_WORDS = 16

DELIVERED = 0
OPEN = 1
"""Fleet: sockets that have joined and are open."""
LOST = 2
"""Fleet: sockets that the server ended."""
PUBLISHED = 3


class Counters:
    """The rows of all processes of a run."""

    def __init__(self, fd: int, rows: int) -> None:
        self.fd = fd
        self.rows = rows
        self._mmap = mmap.mmap(fd, rows * ROW_WORDS * 8)
        self._words = memoryview(self._mmap).cast("Q")

    @classmethod
    def create(cls, rows: int) -> Counters:
        """Make the memory; children attach with its inherited ``fd``."""
        fd = os.memfd_create("loadtest-counters")
        os.ftruncate(fd, rows * ROW_WORDS * 8)
        return cls(fd, rows)

    def row(self, index: int) -> memoryview[int]:
        """The words of one process, writable."""
        return self._words[index * ROW_WORDS : (index + 1) * ROW_WORDS]

    def total(self, word: int) -> int:
        """The sum of one word over all processes."""
        return sum(self._words[word::ROW_WORDS])

    def clear(self) -> None:
        """Zero everything, between two runs."""
        for index in range(len(self._words)):
            self._words[index] = 0

    def close(self) -> None:
        """Unmap the memory and close its descriptor."""
        self._words.release()
        self._mmap.close()
        os.close(self.fd)
