"""The words of the broker as values: stream ids, positions, session names."""

from __future__ import annotations

import re

import msgspec

StreamId = tuple[int, int]
"""``(ms, n)`` of a Redis stream id; two unsigned 64-bit numbers, ordered as such."""

U64_MAX = 2**64 - 1
FIRST_ID: StreamId = (0, 0)
"""Before every entry: Redis refuses to add an entry with this id."""
LAST_ID: StreamId = (U64_MAX, U64_MAX)

_SESSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}\Z")
_POSITION = re.compile(r"(\d{1,20})-(\d{1,20})(?:@(\d{1,20}))?\Z", re.ASCII)


class Position(msgspec.Struct, frozen=True, gc=False):
    """A place in one session's stream: everything up to and including ``id``.

    Attributes:
        id: The stream id ``(ms, n)``; ``(0, 0)`` is before the first entry.
        seq: The ordinal of the entry at ``id`` (1 for the first entry ever added,
            0 at ``(0, 0)``), or None where it is not known exactly.
    """

    id: StreamId
    seq: int | None = None

    def __str__(self) -> str:
        """The form on the wire: ``<ms>-<n>`` or ``<ms>-<n>@<seq>``."""
        text = f"{self.id[0]}-{self.id[1]}"
        return text if self.seq is None else f"{text}@{self.seq}"


START = Position(FIRST_ID, 0)
"""Before the first entry of a stream."""


def parse_position(text: str) -> Position:
    """Read a position as it stands on the wire.

    Raises:
        ValueError: *text* is not ``<ms>-<n>`` or ``<ms>-<n>@<seq>`` in unsigned
            64-bit numbers.
    """
    match = _POSITION.match(text)
    if match is None:
        raise ValueError("a position is <ms>-<n> or <ms>-<n>@<seq>")
    ms, n = int(match[1]), int(match[2])
    seq = int(match[3]) if match[3] is not None else None
    if max(ms, n, seq or 0) > U64_MAX:
        raise ValueError("a number of a position is larger than 64 bits")
    if (ms, n) == FIRST_ID:
        return START
    return Position((ms, n), seq or None)


def parse_stream_id(raw: bytes) -> StreamId:
    """Read a stream id as Redis sends it."""
    ms, _, n = raw.partition(b"-")
    return int(ms), int(n)


def id_before(stream_id: StreamId) -> StreamId:
    """The largest possible id below *stream_id*; ``(0, 0)`` stays what it is."""
    ms, n = stream_id
    if n:
        return ms, n - 1
    return (ms - 1, U64_MAX) if ms else FIRST_ID


def is_session_name(text: str) -> bool:
    """Whether clients may name a session so.

    Names that start with ``_`` belong to the broker itself.
    """
    return _SESSION.match(text) is not None
