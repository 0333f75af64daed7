"""The ring's memory: anonymous, shared by descriptor, gone with its last holder."""

from __future__ import annotations

import mmap
import os

from broker.ring import layout


class Segment:
    """The mapped memory of one ring.

    It is a ``memfd`` and not a file in ``/dev/shm``, so a container's 64 MB limit
    there does not apply and nothing can be left behind.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        total = os.fstat(fd).st_size
        self.size = total - layout.HEADER_BYTES
        layout.check_size(self.size)
        self.memory = mmap.mmap(fd, total)
        """All of it, the header included; slices of it are copies."""
        self._memory = memoryview(self.memory)
        self.words = self._memory[: layout.HEADER_BYTES].cast("Q")
        self.data = self._memory[layout.HEADER_BYTES :]
        if self.words[layout.VERSION] != layout.LAYOUT_VERSION:
            raise ValueError(f"ring layout {self.words[layout.VERSION]} is not ours")

    @classmethod
    def create(cls, size: int) -> Segment:
        """Make a ring of *size* data bytes; children attach by its inherited ``fd``.

        Raises:
            ValueError: *size* is no power of two or too small.
        """
        layout.check_size(size)
        fd = os.memfd_create("broker-ring")
        os.ftruncate(fd, layout.HEADER_BYTES + size)
        os.pwrite(fd, layout.LAYOUT_VERSION.to_bytes(8, "little"), layout.VERSION * 8)
        return cls(fd)

    def head(self) -> int:
        """Ring position up to which records may be read."""
        return self.words[layout.HEAD]

    def claim(self) -> int:
        """Ring position up to which the writer may be writing."""
        return self.words[layout.CLAIM]

    def copy(self, position: int, length: int) -> bytes:
        """Copy *length* bytes from ring *position* on; the caller checks for a lap."""
        offset = position & (self.size - 1)
        end = offset + length
        start = layout.HEADER_BYTES
        # Slices of the mmap itself: half the time of bytes(memoryview[...]).
        if end <= self.size:
            return self.memory[start + offset : start + end]
        rest = self.memory[start : start + end - self.size]
        return self.memory[start + offset : start + self.size] + rest

    def close(self) -> None:
        """Unmap the memory; the descriptor stays with its owner."""
        self.words.release()
        self.data.release()
        self._memory.release()
        self.memory.close()
