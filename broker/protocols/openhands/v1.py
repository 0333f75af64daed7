"""OpenHands V1: what its events socket and its session socket have in common. Pure.

Both give events as they were published, by the rules of the agent-server 1.58. No field
is added to one: its Python client refuses events with fields that it does not know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID, uuid4, uuid5

import msgspec
import orjson

from broker.entry import Event
from broker.errors import BrokerError
from broker.protocols.native import BadFrame
from broker.protocols.openhands.moments import read_moment
from broker.protocols.openhands.rest import EVENT, ROLES, Invalid, read_conversation

MESSAGE_BYTES_MAX: Final = 1024 * 1024 - 1024
"""Larger messages end the connections of Python clients, again and again."""
DIGITS_MAX: Final = 18

_SPACE = UUID("5d2c2a35-8f0c-4f43-9d4b-0d5f5b0f6f0e")
_YEAR_9999_MS = 253_370_764_800_000
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - their times are naive
_NUMBER = re.compile(rf"[+-]?[0-9]{{1,{DIGITS_MAX}}}", re.ASCII)
_TRUE = frozenset(("true", "1", "yes", "on", "t", "y"))
_FALSE = frozenset(("false", "0", "no", "off", "f", "n"))
_AUTH_KEYS = frozenset(("type", "session_api_key"))


# What a request asks for.


class BadQuery(BrokerError):
    """A request cannot be understood; the message repeats nothing of it."""


class Resend(msgspec.Struct, frozen=True):
    """Which events of the past a client of the events socket wants.

    Attributes:
        everything: All that are retained.
        since: Those whose own time is not before this one, None for none; naive UTC.
    """

    everything: bool = False
    since: datetime | None = None


def read_session(text: str) -> str:
    """The session of a path: its UUID in lower case with dashes.

    Raises:
        BadQuery: *text* is no UUID.
    """
    try:
        return read_conversation(text, ("path", "conversation_id"))
    except Invalid as error:
        raise BadQuery(f"conversation_id: {error.message}") from None


def read_resend(query: Mapping[str, str]) -> Resend:
    """Read ``resend_mode``, ``after_timestamp`` and the older ``resend_all``.

    Raises:
        BadQuery: One of them cannot be used, whether or not it would count.
    """
    mode = query.get("resend_mode")
    if mode not in (None, "all", "since"):
        raise BadQuery("resend_mode is all or since")
    everything = _read_flag(query, "resend_all")
    since = None
    if "after_timestamp" in query:
        since = read_moment(query["after_timestamp"])
        if since is None:
            raise BadQuery("after_timestamp is a time of ISO 8601")
    if mode is None:
        return Resend(everything=everything)
    return Resend(everything=True) if mode == "all" else Resend(since=since)


def read_after_seq(query: Mapping[str, str]) -> int | None:
    """Read ``after_seq``; None if it is not given, below 0 for the whole log.

    Raises:
        BadQuery: It is no whole number.
    """
    text = query.get("after_seq")
    if text is None:
        return None
    if _NUMBER.fullmatch(text) is None:
        raise BadQuery("after_seq is a whole number")
    return int(text)


def _read_flag(query: Mapping[str, str], name: str) -> bool:
    text = query.get(name, "false").lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise BadQuery(f"{name} is true or false")


# What clients say.


def read_key(payload: bytes) -> str:
    """The key in the first frame of a client that has shown none before.

    Raises:
        BadFrame: This is no ``{"type": "auth", "session_api_key": text}``.
    """
    frame = _read_object(payload)
    key = frame.get("session_api_key")
    if frame.get("type") != "auth" or not isinstance(key, str) or not key:
        raise BadFrame("unauthorized", "the first frame is auth with session_api_key")
    return key


def check_message(payload: bytes) -> bool:
    """Whether a frame is a message; another ``auth`` is none and means nothing.

    Raises:
        BadFrame: It is neither.
    """
    frame = _read_object(payload)
    if frame.get("type") == "auth" and frame.keys() <= _AUTH_KEYS:
        return False
    if frame.get("role") not in ROLES:
        raise BadFrame("bad_frame", f"role is one of {', '.join(ROLES)}")
    content = frame.get("content")
    if isinstance(content, str):
        return True
    if not isinstance(content, list) or not all(map(_is_part, content)):
        raise BadFrame("bad_frame", "content is text, or a list of objects with a type")
    return True


def _is_part(part: object) -> bool:
    return isinstance(part, dict) and isinstance(part.get("type"), str)


def _read_object(payload: bytes) -> dict[str, object]:
    # As a whole: it is handed on as it came.
    try:
        frame = orjson.loads(payload)
    except orjson.JSONDecodeError:
        raise BadFrame("bad_json", "the frame is not JSON") from None
    if not isinstance(frame, dict):
        raise BadFrame("bad_frame", "a frame is a JSON object")
    return frame


ERROR_CODES: Final = {
    "bad_json": "JSONDecodeError",
    "bad_frame": "ValidationError",
    "forbidden": "PermissionDenied",
    "rate_limited": "RateLimited",
    "too_large": "MessageTooLarge",
}
"""What clients are told by what was wrong; everything else is unavailable."""
UNAVAILABLE: Final = "ServiceUnavailable"
IDLE: Final = "idle"
"""The ``execution_status`` of a conversation of which nothing else is known."""


# What is inside of events.


class State(msgspec.Struct, frozen=True):
    """What a ``ConversationStateUpdateEvent`` says, of the two keys that matter here.

    Attributes:
        status: Of ``execution_status``; empty for a ``full_state``.
    """

    status: str = ""


class _Head(msgspec.Struct):
    """Other types than expected are as good as nothing."""

    kind: object = None
    timestamp: object = None
    key: object = None
    value: msgspec.Raw = msgspec.Raw(b"null")


_decode_head = msgspec.json.Decoder(_Head).decode
_NOTHING = _Head()


def _head(data: bytes) -> _Head:
    try:
        return _decode_head(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _NOTHING


def is_state(data: bytes) -> bool:
    """Whether *data* may be a state; costs nearly nothing, and no state is missed."""
    return b"ConversationStateUpdateEvent" in data


def read_state(event: Event) -> State | None:
    """The state that an entry tells, None for all others."""
    if event.event != EVENT or not is_state(event.data):
        return None
    head = _head(event.data)
    if head.kind != "ConversationStateUpdateEvent":
        return None
    if head.key == "full_state":
        return State()
    if head.key != "execution_status":
        return None
    status = _value(head)
    return State(status) if status and isinstance(status, str) else None


def is_delta(data: bytes) -> bool:
    """Whether an event is a piece of what a model is just saying."""
    return b"StreamingDeltaEvent" in data and _head(data).kind == "StreamingDeltaEvent"


def event_time(event: Event) -> datetime | None:
    """When an entry says that it happened; naive UTC, None if it does not say."""
    if event.event != EVENT:
        return None
    text = _head(event.data).timestamp
    return read_moment(text) if isinstance(text, str) else None


def read_status(data: bytes) -> str:
    """The ``execution_status`` within a ``full_state``; ``idle`` if it has none."""
    value = _value(_head(data))
    status = value.get("execution_status") if isinstance(value, dict) else None
    return status if isinstance(status, str) and status else IDLE


def _value(head: _Head) -> object:
    try:
        return orjson.loads(bytes(head.value))
    except orjson.JSONDecodeError:
        return None  # It is stricter than what has read the head.


# Events of the broker itself.


def status_event(status: str) -> bytes:
    """The state of a conversation as an event that is in no log."""
    return orjson.dumps(
        {
            "id": str(uuid4()),
            "timestamp": _now(),
            "source": "environment",
            "key": "execution_status",
            "value": status,
            "kind": "ConversationStateUpdateEvent",
        }
    )


class Trouble(msgspec.Struct, frozen=True):
    """What a client is told that is no event of its conversation.

    Attributes:
        code: One word.
        detail: For a person.
        at_ms: When, in ms since 1970; None for now.
        name: The same trouble has the same name, also on another connection, so that
            clients show it once; empty where each is another one.
    """

    code: str
    detail: str
    at_ms: int | None = None
    name: str = ""


def error_event(trouble: Trouble) -> bytes:
    """A ``ServerErrorEvent``."""
    name, at_ms = trouble.name, trouble.at_ms
    return orjson.dumps(
        {
            "id": str(uuid5(_SPACE, f"{trouble.code} {name}") if name else uuid4()),
            "timestamp": _now() if at_ms is None else _time(at_ms),
            "source": "environment",
            "code": trouble.code,
            "detail": trouble.detail,
            "kind": "ServerErrorEvent",
        }
    )


def _now() -> str:
    return datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="microseconds")


def _time(ms: int) -> str:
    # Ids may be anything where a publisher gives them.
    moment = _EPOCH + timedelta(milliseconds=min(ms, _YEAR_9999_MS))
    return moment.isoformat(timespec="microseconds")
