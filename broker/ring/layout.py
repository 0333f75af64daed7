"""Where everything lies in the ring's memory.

::

    0                                  HEADER_BYTES                  + size
    | claim | head | generation | ... |  records, each 8-byte aligned |

A *ring position* counts bytes and only grows; its place in memory is
``HEADER_BYTES + position % size``. A record may wrap around the end: readers copy
before they look, so no padding is needed. One record::

    word 0   length << 8 | kind         length in bytes, a multiple of 8
    word 1   channel (4 bytes), checksum (4 bytes; 0 where it is not needed)
    word 2-4 stream id ms, stream id n, ordinal (0: not known, unless the id is 0-0)
    word 5   ring position of the previous record of the same channel, 0: none
    word 6   CLOCK_MONOTONIC of the writer in ns
    then     the payload (see ``records``), zero-filled to a multiple of 8

The order of plain stores is trusted on x86-64 only. On other machines each record
carries a CRC of its bytes and of the generation, checked on the copy.
"""

from __future__ import annotations

import platform
import struct
from enum import IntEnum

HEADER_BYTES = 4096
LAYOUT_VERSION = 1

# Words of the header, one cache line apart: readers poll HEAD and CLAIM.
CLAIM = 0
"""End of the bytes that are written or being written; moved before they are."""
HEAD = 8
"""End of the bytes that may be read."""
GENERATION = 16
"""How many transmitters have owned the ring."""
GENERATION_START = 24
"""Ring position at which the present transmitter began."""
NEXT_CHANNEL = 32
"""The next channel number; never reused, so an old number cannot mean a new channel."""
VERSION = 40

RECORD = struct.Struct("=QIIQQQQQ")
RECORD_BYTES = RECORD.size
LINK = struct.Struct("=QI4xQQ8xQ8x")
"""The same without checksum, ordinal and time: what a walk over many looks at."""
CHECKSUM_OFFSET = 12

ALIGNMENT = 8
MIN_SIZE = 1 << 20
LARGEST_SHARE = 8
"""A record is at most ``size / LARGEST_SHARE`` bytes long."""

ORDER_IS_TRUSTED = platform.machine() in ("x86_64", "AMD64")


class Kind(IntEnum):
    """What a record says."""

    EVENT = 1
    """An entry of a stream."""
    REFERENCE = 2
    """An entry too large for the ring; readers fetch it from the store."""
    SKIPPED = 3
    """An entry that breaks the publishing contract."""
    GAP = 4
    """Entries that can no longer be had; the position is where the hole ends."""
    RESET = 5
    """The stream is another one from here on; the position is 0-0."""
    BASE = 6
    """First record of a watch: the chain covers what comes after its position."""
    UNREADABLE = 7
    """The channel's stream cannot be read at the moment; not part of a chain."""
    JOIN = 8
    """Answer to one worker's watch request; not part of a chain."""
    REFUSED = 9
    """Refusal of one worker's watch request; not part of a chain."""


KINDS = frozenset(int(kind) for kind in Kind)
ENTRIES = frozenset(map(int, (Kind.EVENT, Kind.REFERENCE, Kind.SKIPPED)))
"""Records that stand for one entry of the stream each."""


def aligned(length: int) -> int:
    """*length* rounded up to the record alignment."""
    return (length + 7) & ~7


def check_size(size: int) -> None:
    """Refuse a ring size that the position arithmetic cannot serve.

    Raises:
        ValueError: *size* is no power of two or below ``MIN_SIZE``.
    """
    if size < MIN_SIZE or size & (size - 1):
        raise ValueError(f"ring size must be a power of two >= {MIN_SIZE}, got {size}")
