"""What the fan-out builds once per wire format and writes to every socket of it."""

from __future__ import annotations

from typing import Final, Protocol

from broker.entry import Event
from broker.protocols import native, sse, websocket
from broker.ring.records import pack_event, unpack_event, unpack_frame


class Editor(Protocol):
    """Looks over the frames of one page of a replay before they are sent.

    Attributes:
        held: The frame that waits until its client has caught up; empty for none.
    """

    held: bytes

    def add(self, frame: bytes) -> bytes:
        """The next frame; returns what may be sent now, perhaps nothing."""
        ...

    def finish(self) -> bytes:
        """What was kept back only to see what follows."""
        ...


class Format(Protocol):
    """Turns events and notices into the bytes of one wire format.

    It keeps nothing of a connection: what it makes is made once per event and goes to
    every socket of the format. What clients of a format do not get is empty bytes.

    Attributes:
        name: What operators call it; a label of metrics.
        heartbeat: What is sent to keep an idle connection.
        answers: Whether a living client answers a heartbeat, if only by a pong.
        shared: Whether the same entries are the same bytes at any time: then a page of
            them that was made for one subscription serves others as well.
    """

    name: str
    heartbeat: bytes
    answers: bool
    shared: bool

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

    def editor(self, lagging: bool) -> Editor | None:
        """For one page of a replay; None where frames are sent as they are.

        Args:
            lagging: Whether it is for a socket that could not keep up, and not for a
                client that has asked for the past. Pages that are shared must not
                depend on it.
        """
        ...


class NativeFormat:
    """``broker.v1``: JSON in WebSocket text frames."""

    name = "websocket"
    heartbeat = websocket.ping_frame() + websocket.text_frame(native.HEARTBEAT)
    answers = True
    shared = True

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

    def editor(self, lagging: bool) -> None:
        """Nothing is left out or put together."""
        del lagging


class SseFormat:
    """The same JSON in blocks of an event stream."""

    name = "sse"
    heartbeat = sse.HEARTBEAT
    answers = False
    shared = True

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

    def editor(self, lagging: bool) -> None:
        """Nothing is left out or put together."""
        del lagging


NATIVE: Final[Format] = NativeFormat()
SSE: Final[Format] = SseFormat()


def event_payload(session: bytes, ms: int, n: int, seq: int, event: Event) -> bytes:
    """What the reader puts into the ring for an event; *seq* 0 is unknown."""
    json = native.event_json(session, ms, n, seq, event)
    frame = websocket.text_frame(json)
    return pack_event(frame, len(frame) - len(json), event.key, event.transient)
