"""OpenHands V0: what a conversation says in Socket.IO, and what its clients ask. Pure.

Whoever publishes for V0 clients names its entries ``oh_event``, with the event's JSON
as ``data``; the event's number in its conversation stands inside, as ``id``.

Source: the server of openhands-ai 0.62.0, of which this keeps the words and the order
and not the two windows in which events were lost or came twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec
import orjson

from broker.disconnect import Disconnect
from broker.entry import Event
from broker.protocols import native, websocket
from broker.protocols.formats import Editor, Format
from broker.protocols.native import BadFrame
from broker.protocols.openhands import socketio
from broker.ring.records import unpack_event

EVENT: Final = b"oh_event"
COMMANDS: Final = frozenset({"oh_user_action", "oh_action"})
"""What clients emit: the second one is an older name of the first."""

PING_FRAMES: Final = 64
PING_BYTES: Final = 32 * 1024
"""So often a ping stands in a page of a replay. A socket that is always full gets no
heartbeat, and socket.io-client gives up if it has seen no ping for 45 s, however much
else it gets."""

PING_FRAME: Final = websocket.text_frame(socketio.PING)
DISCONNECT_FRAME: Final = websocket.text_frame(socketio.DISCONNECT)

LOST_ID: Final = "STATUS$EVENTS_LOST"
TOO_MANY_ID: Final = "AGENT_ERROR$TOO_MANY_CONVERSATIONS"
TOO_MANY_TEXT: Final = (
    "Too many conversations at once. If you are still using this one, try reactivating "
    "it by prompting the agent to continue"
)

NO_CONVERSATION: Final = "No conversation_id in query params"
NO_SUCH_CONVERSATION: Final = "The conversation_id is no name of a conversation"
CONNECT_REFUSALS: Final[Mapping[Disconnect, str]] = {
    Disconnect.UNAUTHORIZED: "invalid_session_api_key",
    Disconnect.REVOKED: "invalid_session_api_key",
    Disconnect.TOKEN_EXPIRED: "SESSION$TIMEOUT_MESSAGE",
    Disconnect.FORBIDDEN: "User is not allowed to join conversation {conversation}",
    Disconnect.NOT_FOUND: "Failed to access conversation events: they cannot be read",
    Disconnect.SESSION_EVICTED: TOO_MANY_TEXT,
}
"""What upstream's clients know as reasons not to connect."""

_NAME = b'"oh_event"'
_PACKET_HEAD = b'42["oh_event",'
_STATE = b"agent_state_changed"
_HIDDEN_ACTIONS = frozenset({b'"null"', b'"recall"'})
_HIDDEN_OBSERVATION = b'"null"'

_NUMBER = re.compile(r"\d{1,18}\Z", re.ASCII)
_NOT_GIVEN = frozenset({"", "null", "undefined"})


class _Head(msgspec.Struct):
    """What decides about an event; of any type, as publishers may err."""

    id: msgspec.Raw = msgspec.Raw(b"")
    action: msgspec.Raw = msgspec.Raw(b"")
    observation: msgspec.Raw = msgspec.Raw(b"")


_NO_HEAD = _Head()
_decode_head = msgspec.json.Decoder(_Head).decode
_decode_id = msgspec.json.Decoder(int, strict=True).decode


def _head_of(data: bytes) -> _Head:
    try:
        return _decode_head(data)
    except (msgspec.DecodeError, RecursionError):
        return _NO_HEAD  # No object, or too deep a one: it is no event of a kind.


class V0Format:
    """Events as ``oh_event`` packets in text frames.

    Attributes:
        name: Label of metrics.
        heartbeat: Engine.IO's ping.
        answers: Clients answer it.
    """

    name = "openhands_v0"
    heartbeat = PING_FRAME
    answers = True
    shared = True

    def __init__(self, editor: type[Pinging]) -> None:
        self._editor = editor

    def event(self, session: bytes, ms: int, n: int, seq: int, event: Event) -> bytes:
        """An ``oh_event``; empty for entries of other names and for null events."""
        return _event_frame(event.data) if event.event == EVENT else b""

    def recorded(self, ms: int, n: int, seq: int, payload: bytes) -> bytes:
        """The same from the frame that the reader has built."""
        event = unpack_event(payload)
        told = native.split_event(event.frame, event.header_bytes)
        return _event_frame(told.data) if told.name == _NAME else b""

    def skipped(
        self, session: bytes, ms: int, n: int, seq: int, reason: str, detail: bytes
    ) -> bytes:
        """An entry that nobody can be shown."""
        return _lost_frame(f"An event cannot be shown: {reason}")

    def notice(self, event: str, data: object, session: str | None = None) -> bytes:
        """What is worth a word in this protocol: losses and errors."""
        if not isinstance(data, Mapping):
            return b""
        if event == "gap":
            return _gap_frame(data)
        if event == "reset":
            return _lost_frame("The conversation began anew; its new events follow")
        if event == "error":
            return error_frame(str(data["message"]))
        return b""

    def editor(self, lagging: bool) -> Editor:
        """Puts pings into a replay."""
        del lagging
        return self._editor()


def _event_frame(data: bytes) -> bytes:
    head = _head_of(data)
    if bytes(head.action) in _HIDDEN_ACTIONS:
        return b""
    if bytes(head.observation) == _HIDDEN_OBSERVATION:
        return b""
    return oh_event_frame(data)


def oh_event_frame(data: bytes) -> bytes:
    """One ``oh_event`` with *data*, which is JSON text."""
    return websocket.text_frame(socketio.event_packet(EVENT, data))


def error_frame(message: str) -> bytes:
    """Something that the client did or wants cannot be done."""
    return oh_event_frame(orjson.dumps({"error": True, "message": message}))


def _status_frame(name: str, message: str) -> bytes:
    update = {"status_update": True, "type": "error", "id": name, "message": message}
    return oh_event_frame(orjson.dumps(update))


def _lost_frame(message: str) -> bytes:
    return _status_frame(LOST_ID, message)


def _gap_frame(gap: Mapping[str, object]) -> bytes:
    if gap["reason"] in ("transient", "conflated"):
        return b""  # Left out on purpose: what replays are without.
    lost = gap["lost"]
    if lost is None:
        return _lost_frame("Some events were removed before they could be sent")
    what = "1 event was" if lost == 1 else f"{lost} events were"
    return _lost_frame(f"{what} removed before they could be sent")


TOO_MANY_FRAME: Final = _status_frame(TOO_MANY_ID, TOO_MANY_TEXT)
"""What the clients of a conversation get that was closed for a newer one."""


class Pinging:
    """Puts a ping behind every ``PING_FRAMES`` or ``PING_BYTES`` of a replay.

    Attributes:
        held: Nothing.
    """

    def __init__(self) -> None:
        self.held = b""
        self._frames = 0
        self._bytes = 0

    def add(self, frame: bytes) -> bytes:
        """The frame, now and then with a ping behind it."""
        self._frames += 1
        self._bytes += len(frame)
        if self._frames < PING_FRAMES and self._bytes < PING_BYTES:
            return frame
        self._frames = self._bytes = 0
        return frame + PING_FRAME

    def finish(self) -> bytes:
        """Nothing is kept back."""
        return b""


class HoldingState(Pinging):
    """Keeps back what says how the agent stands, except the newest of it.

    Attributes:
        held: The newest frame of that kind.
    """

    def add(self, frame: bytes) -> bytes:
        """The frame, or nothing if it has to wait."""
        # Hardly any frame has the word, so hardly any is parsed once more.
        if _STATE in frame and _is_state(frame):
            self.held = frame
            return b""
        return super().add(frame)


def _is_state(frame: bytes) -> bool:
    data = frame[frame.index(_PACKET_HEAD) + len(_PACKET_HEAD) : -1]
    return bytes(_head_of(data).observation) == b'"%b"' % _STATE


JOINING: Final[Format] = V0Format(HoldingState)
"""Until a client is told that it is connected: the agent's state comes last."""
LIVE: Final[Format] = V0Format(Pinging)
"""From then on: everything in its order."""


def event_id(event: Event) -> int | None:
    """The number of an event in its conversation, None if it has none."""
    if event.event != EVENT:
        return None
    try:
        return _decode_id(_head_of(event.data).id)
    except msgspec.DecodeError:
        return None


# What clients ask.


def given(value: str | None) -> str:
    """A value of the query; what JavaScript makes of nothing counts as nothing."""
    return "" if value is None or value in _NOT_GIVEN else value


def read_latest_event_id(value: str | None) -> int:
    """The number of the last event that a client has; -1 for none.

    Whatever is no number of an event counts as -1, as upstream has it.
    """
    text = given(value)
    return int(text) if _NUMBER.match(text) else -1


def read_auth(data: bytes) -> str | None:
    """The token in the payload of a connect packet, None if there is none.

    Raises:
        BadFrame: The payload is not JSON, or no object.
    """
    if not data:
        return None
    auth = socketio.read_object(data)
    for name in ("token", "session_api_key"):
        value = auth.get(name)
        if isinstance(value, str) and given(value):
            return value
    return None


def read_command(said: socketio.Said) -> bytes:
    """The JSON text that a command carries.

    Raises:
        BadFrame: It is not exactly one object.
    """
    if len(said.arguments) != 1 or not said.arguments[0].startswith(b"{"):
        raise BadFrame("bad_frame", "an action is one object")
    return said.arguments[0]


def refusal_packet(
    reason: Disconnect, conversation: str, details: Mapping[str, object]
) -> bytes:
    """The answer to who asked to connect and may not."""
    known = CONNECT_REFUSALS.get(reason)
    message = known or f"Failed to join conversation: {reason.text}"
    data = {"code": reason.code, "reason": reason.label, **details}
    if reason is Disconnect.SESSION_EVICTED:
        data["msg_id"] = TOO_MANY_ID
    message = message.replace("{conversation}", conversation)
    return socketio.connect_error_packet(message, data)
