"""The event of every load test: 200 bytes of JSON, cheap to find in a chunk.

::

    {"t":<19 digits>,"q":<12 digits>,"p":"xxxxx...ABCDEFGHIJKLMNOPQRSTUVWX"}

``t`` is CLOCK_MONOTONIC in nanoseconds at publishing and ``q`` the publisher's own
ordinal within the session, each plus a base that keeps its width, so both stand at
a fixed distance before the marker. All processes of a run share the clock.

The marker is made of capitals because ``bytes.count`` jumps by the length of its
needle wherever the byte behind the window is not in it, and nothing else in a frame
has capitals but ``T`` and ``Z`` of timestamps: 25 ns per frame of 330 bytes.
"""

from __future__ import annotations

DATA_BYTES = 200
EVENT = "token_stream"

MARKER = b"ABCDEFGHIJKLMNOPQRSTUVWX"
TIME_BASE = 10**18
ORDINAL_BASE = 10**11
_TIME_DIGITS = 19
_ORDINAL_DIGITS = 12

_FILLER_BYTES = (
    DATA_BYTES
    - len('{"t":,"q":,"p":""}')
    - _TIME_DIGITS
    - _ORDINAL_DIGITS
    - len(MARKER)
)
TEMPLATE = b'{"t":%%d,"q":%%d,"p":"%s%s"}' % (b"x" * _FILLER_BYTES, MARKER)
"""Takes ``(time, ordinal)``, each with its base added."""

# Distances back from the first byte of the marker.
ORDINAL_END = _FILLER_BYTES + len(',"p":"')
ORDINAL_START = ORDINAL_END + _ORDINAL_DIGITS
TIME_END = ORDINAL_START + len(',"q":')
TIME_START = TIME_END + _TIME_DIGITS

TAIL_BYTES = 256
"""How much of an unfinished event must be kept: more than from ``t`` to the marker."""


def event_data(time_ns: int, ordinal: int) -> bytes:
    """The ``data`` of one event, exactly ``DATA_BYTES`` long."""
    return TEMPLATE % (time_ns + TIME_BASE, ordinal + ORDINAL_BASE)


def ordinal_at(buffer: bytes | bytearray, marker: int) -> int:
    """The publisher's ordinal of the event whose marker starts at *marker*."""
    digits = buffer[marker - ORDINAL_START : marker - ORDINAL_END]
    return int(digits) - ORDINAL_BASE


def time_ns_at(buffer: bytes | bytearray, marker: int) -> int:
    """The publish time of the event whose marker starts at *marker*."""
    return int(buffer[marker - TIME_START : marker - TIME_END]) - TIME_BASE
