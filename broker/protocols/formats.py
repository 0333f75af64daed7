"""What the fan-out builds once per wire format and writes to every socket of it."""

from __future__ import annotations

from typing import Final, Protocol

from broker.entry import Event
from broker.protocols import native, sse, websocket
from broker.ring.records import pack_event, unpack_event, unpack_frame


class Format(Protocol):
    """Turns events and notices into the bytes of one wire format.

    Attributes:
        name: What operators call it.
        index: Its place in ``FORMATS``.
        heartbeat: What is sent to keep an idle connection.
    """

    name: str
    index: int
    heartbeat: bytes

    def event(self, session: bytes, ms: int, n: int, seq: int, event: Event) -> bytes:
        """A published event; *seq* 0 is unknown."""
        ...

    def recorded(self, ms: int, n: int, seq: int, payload: bytes) -> bytes:
        """A published event from the payload of its EVENT record in the ring."""
        ...

    def skipped(
        self, session: bytes, ms: int, n: int, seq: int, reason: str, detail: bytes
    ) -> bytes:
        """The place of an entry that broke the contract; *seq* 0 is unknown."""
        ...

    def notice(self, event: str, data: object, session: str | None = None) -> bytes:
        """An event of the broker itself."""
        ...


class NativeFormat:
    """``broker.v1``: JSON in WebSocket text frames."""

    name = "websocket"
    index = 0
    heartbeat = websocket.ping_frame() + websocket.text_frame(native.HEARTBEAT)

    def event(self, session: bytes, ms: int, n: int, seq: int, event: Event) -> bytes:
        """A published event as one text frame."""
        return websocket.text_frame(native.event_json(session, ms, n, seq, event))

    def recorded(self, ms: int, n: int, seq: int, payload: bytes) -> bytes:
        """The frame that the reader has built."""
        return unpack_frame(payload)

    def skipped(
        self, session: bytes, ms: int, n: int, seq: int, reason: str, detail: bytes
    ) -> bytes:
        """The place of a skipped entry as one text frame."""
        return websocket.text_frame(
            native.skipped_json(session, ms, n, seq, reason, detail)
        )

    def notice(self, event: str, data: object, session: str | None = None) -> bytes:
        """An event of the broker itself as one text frame."""
        return websocket.text_frame(native.notice_json(event, data, session))


class SseFormat:
    """The same JSON in blocks of an event stream."""

    name = "sse"
    index = 1
    heartbeat = sse.HEARTBEAT

    def event(self, session: bytes, ms: int, n: int, seq: int, event: Event) -> bytes:
        """A published event as a block that moves the client's position."""
        return sse.data_block(
            native.event_json(session, ms, n, seq, event),
            native.position_text(ms, n, seq),
        )

    def recorded(self, ms: int, n: int, seq: int, payload: bytes) -> bytes:
        """The JSON of the recorded frame as a block that moves the position."""
        event = unpack_event(payload)
        json = event.frame[event.header_bytes :]
        return sse.data_block(json, native.position_text(ms, n, seq))

    def skipped(
        self, session: bytes, ms: int, n: int, seq: int, reason: str, detail: bytes
    ) -> bytes:
        """A skipped entry as a block that moves the client's position."""
        return sse.data_block(
            native.skipped_json(session, ms, n, seq, reason, detail),
            native.position_text(ms, n, seq),
        )

    def notice(self, event: str, data: object, session: str | None = None) -> bytes:
        """An event of the broker itself; leaves the client's position alone."""
        return sse.data_block(native.notice_json(event, data, session))


NATIVE: Final[Format] = NativeFormat()
SSE: Final[Format] = SseFormat()
FORMATS: Final = (NATIVE, SSE)


def event_payload(session: bytes, ms: int, n: int, seq: int, event: Event) -> bytes:
    """What the reader puts into the ring for an event; *seq* 0 is unknown."""
    json = native.event_json(session, ms, n, seq, event)
    frame = websocket.text_frame(json)
    return pack_event(frame, len(frame) - len(json), event.key, event.transient)
