"""Events as the broker would frame them, made on the spot."""

from __future__ import annotations

import time

from loadtest import payload

_FRAME = (
    b'{"id":"%d-0","seq":%d,"session":"s0","event":"'
    + payload.EVENT.encode()
    + b'","data":%s,"timestamp":"2025-11-21T04:26:40.000000000Z"}'
)
_FIRST_MS = 1_763_700_000_000


class EventMaker:
    """Numbers events and writes them down."""

    def __init__(self) -> None:
        self._ordinal = 0

    def make(self) -> bytes:
        """The JSON of the next event, published now."""
        self._ordinal += 1
        data = payload.event_data(time.monotonic_ns(), self._ordinal)
        return _FRAME % (_FIRST_MS + self._ordinal, self._ordinal, data)


def text_frame(message: bytes) -> bytes:
    """A server's text frame of 126 to 65 535 bytes."""
    return b"\x81\x7e" + len(message).to_bytes(2, "big") + message
