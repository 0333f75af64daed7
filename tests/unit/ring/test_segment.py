"""The memory that processes share."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from broker.ring import layout
from broker.ring.segment import Segment

CHILD = """
import sys
from broker.ring.segment import Segment
segment = Segment(int(sys.argv[1]))
segment.words[1] = segment.size
segment.data[:5] = b"hello"
"""


def test_second_process_shares_the_memory(segment: Segment) -> None:
    """A child attaches by the inherited descriptor and finds the size by itself."""
    subprocess.run(
        [sys.executable, "-c", CHILD, str(segment.fd)],
        pass_fds=[segment.fd],
        check=True,
        timeout=30,
    )

    assert segment.words[1] == segment.size == layout.MIN_SIZE
    assert segment.copy(0, 5) == b"hello"


def test_copy_goes_round_the_end(segment: Segment) -> None:
    """A record may wrap: the copy is in one piece."""
    size = segment.size
    segment.data[size - 3 :] = b"abc"
    segment.data[:4] = b"defg"

    assert segment.copy(5 * size - 3, 7) == b"abcdefg"
    assert segment.copy(size - 3, 3) == b"abc"
    assert segment.copy(size, 4) == b"defg"


def test_memory_of_another_layout_is_refused(segment: Segment) -> None:
    """Processes of two versions must not read each other's rings."""
    segment.words[layout.VERSION] = layout.LAYOUT_VERSION + 1

    with pytest.raises(ValueError, match="not ours"):
        Segment(segment.fd)


def test_memory_of_another_size_is_refused() -> None:
    """The descriptor of something else is found out."""
    fd = os.memfd_create("other")
    os.ftruncate(fd, layout.HEADER_BYTES + layout.MIN_SIZE + 4096)

    with pytest.raises(ValueError, match="power of two"):
        Segment(fd)
    os.close(fd)


def test_size_is_checked_before_memory_is_taken() -> None:
    """A bad setting fails early."""
    with pytest.raises(ValueError, match="power of two"):
        Segment.create(5_000_000)


def test_new_ring_is_empty(segment: Segment) -> None:
    """Nothing is claimed and nothing can be read."""
    assert (segment.head(), segment.claim()) == (0, 0)
