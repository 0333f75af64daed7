"""The frames of OpenHands V1: of its events socket and of its session socket. Pure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Final

import orjson

from broker.entry import Event
from broker.model import Position, parse_position
from broker.protocols import native, websocket
from broker.protocols.formats import Format
from broker.protocols.openhands.rest import EVENT, event_id, is_event_id
from broker.protocols.openhands.v1 import (
    MESSAGE_BYTES_MAX,
    Trouble,
    error_event,
    is_delta,
    read_status,
    status_event,
)
from broker.ring.records import unpack_event

REAL_LOSSES: Final = ("trimmed", "dropped", "reset")
"""Reasons of gaps that clients are told of. What is transient has no place in a log."""


_NAME = b'"oh_event"'


class SocketFormat(ABC):
    """What both sockets have in common: which entries they give, and what they say.

    A heartbeat is a ping; the protocol has no words for one.
    """

    name: str
    heartbeat = websocket.ping_frame()
    answers = True
    shared = True

    def event(self, session: bytes, ms: int, n: int, seq: int, event: Event) -> bytes:
        """An event of the conversation; empty for all other entries of its stream."""
        if event.event != EVENT:
            return b""
        return self._entry(session.decode(), ms, n, seq, event.data, event.transient)

    def recorded(self, ms: int, n: int, seq: int, payload: bytes) -> bytes:
        """The same from the payload of its record."""
        record = unpack_event(payload)
        told = native.split_event(record.frame, record.header_bytes)
        if told.name != _NAME:
            return b""
        session = told.session.decode()
        return self._entry(session, ms, n, seq, told.data, record.transient)

    def _entry(
        self, session: str, ms: int, n: int, seq: int, data: bytes, transient: bool
    ) -> bytes:
        data = data.strip()  # The ring's JSON has no space around it.
        if data[:1] != b"{":
            return b""  # Clients take every frame for an object.
        message = self.message(seq, data, transient)
        if len(message) > MESSAGE_BYTES_MAX:
            return self.trouble(_too_large(session, ms, n, data))
        return websocket.text_frame(message) if message else b""

    @abstractmethod
    def message(self, seq: int, data: bytes, transient: bool) -> bytes:
        """The text of the frame of an event; empty where it is not given."""

    def state(self, data: bytes) -> bytes:
        """A state that is told apart from the log.

        Args:
            data: A ``ConversationStateUpdateEvent``; of one that is too large only the
                status is told.
        """
        message = self.message(0, data, True)
        if len(message) > MESSAGE_BYTES_MAX:
            message = self.message(0, status_event(read_status(data)), True)
        return websocket.text_frame(message)

    def skipped(
        self, session: bytes, ms: int, n: int, seq: int, reason: str, detail: bytes
    ) -> bytes:
        """The place of an entry that nobody can be given."""
        why = detail.decode("ascii", "replace")
        return self.trouble(
            Trouble(
                "EventSkipped",
                f"an entry of this conversation cannot be shown: {why}",
                ms,
                f"{session.decode()} {ms}-{n}",
            )
        )

    def notice(self, event: str, data: object, session: str | None = None) -> bytes:
        """What the protocol has words for: that something is lost."""
        assert isinstance(data, Mapping)  # noqa: S101 - narrows for mypy
        if event == "gap" and data["reason"] in REAL_LOSSES:
            return self.trouble(_lost(session or "", data))
        if event == "reset":
            return self.trouble(HISTORY_RESET)
        if event == "error":
            return self.trouble(Trouble("StreamUnreadable", str(data["message"])))
        return b""

    @abstractmethod
    def trouble(self, trouble: Trouble) -> bytes:
        """The frame that tells of one."""

    def editor(self, lagging: bool) -> None:
        """Nothing is left out or put together."""
        del lagging


class EventsFormat(SocketFormat):
    """``/sockets/events``: each frame is one event, byte for byte."""

    name = "openhands_v1"

    def message(self, seq: int, data: bytes, transient: bool) -> bytes:
        """The event itself."""
        return data

    def trouble(self, trouble: Trouble) -> bytes:
        """A ``ServerErrorEvent``."""
        return websocket.text_frame(error_event(trouble))


class SessionFormat(SocketFormat):
    """``/sockets/session``: events in envelopes that say which place they have.

    ``seq`` is the place of the entry in its stream, from 0 on. It rises strictly, with
    holes where entries are no events or are not kept. Where it is not known, the event
    is given as one that moves no client's place, so it comes again after a reconnect.
    """

    name = "openhands_session"

    def message(self, seq: int, data: bytes, transient: bool) -> bytes:
        """An envelope; pieces of what a model is just saying have none."""
        if is_delta(data):
            return b""
        if transient or not seq:
            return b'{"type":"transient","event":%b}' % data
        return b'{"type":"durable","seq":%d,"event":%b}' % (seq - 1, data)

    def notice(self, event: str, data: object, session: str | None = None) -> bytes:
        """What is lost; of another history also that its places begin at 0."""
        words = super().notice(event, data, session)
        return words + sync_frame(-1, None) if event == "reset" else words

    def trouble(self, trouble: Trouble) -> bytes:
        """An ``error`` frame."""
        frame = {"type": "error", "code": trouble.code, "detail": trouble.detail}
        return websocket.text_frame(orjson.dumps(frame))


EVENTS: Final = EventsFormat()
SESSION: Final = SessionFormat()
FORMATS: Final[tuple[Format, ...]] = (EVENTS, SESSION)


def sync_frame(from_seq: int | None, through_seq: int | None) -> bytes:
    """The first frame of the session socket.

    Args:
        from_seq: The place behind which the events begin that follow; None for live
            ones only.
        through_seq: The last place in the log; None if that is empty or not known.
    """
    frame: dict[str, object] = {"type": "sync"}
    if from_seq is not None:
        frame["from_seq"] = from_seq
    if through_seq is not None:
        frame["through_seq"] = through_seq
    return websocket.text_frame(orjson.dumps(frame))


HISTORY_RESET: Final = Trouble(
    "HistoryReset",
    "this conversation has another history since; what there is of it follows",
)


def _too_large(session: str, ms: int, n: int, data: bytes) -> Trouble:
    detail = f"an event of {len(data)} bytes is too large for this socket"
    name = event_id(data)
    if is_event_id(name):
        detail += f"; read it with GET /api/conversations/{session}/events/{name}"
    return Trouble("EventTooLarge", detail, ms, f"{session} {ms}-{n}")


def _lost(session: str, gap: Mapping[str, object]) -> Trouble:
    lost, reason = gap["lost"], gap["reason"]
    following = _position(gap["next"])
    count = "an unknown number of" if lost is None else str(lost)
    return Trouble(
        "EventsLost",
        f"{count} entries of this conversation are not there any more ({reason})",
        following.id[0],
        f"{session} {gap['after']} {gap['next']}",
    )


def _position(text: object) -> Position:
    return parse_position(str(text))
