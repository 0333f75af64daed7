"""What requests of OpenHands V1 ask for: queries, bodies, and which events they want.

The routes are those of the agent-server (1.58) that its clients need to read a
conversation and to act on it. The answers are in `rest_answers` beside this.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec
import orjson

from broker.entry import Event
from broker.errors import BrokerError
from broker.model import FIRST_ID, StreamId, parse_position
from broker.protocols.openhands.moments import read_moment

EVENT: Final = b"oh_event"
"""Under which name services publish OpenHands events."""
LIMIT_MAX: Final = 100
"""Events in a page, and ids in a request for several."""
TEXT_CHARS_MAX: Final = 512
"""Bound of what a filter compares with: it is kept with the counts."""
ROLES: Final = ("user", "system", "assistant", "tool")
COMMANDS: Final = {
    ("run",): "run",
    ("pause",): "pause",
    ("interrupt",): "interrupt",
    ("events",): "message",
    ("events", "respond_to_confirmation"): "respond_to_confirmation",
}
"""Names of commands by what follows the conversation in the path of a POST."""
OPENING: Final = frozenset(("message", "run", "respond_to_confirmation"))
"""Commands by which a user wants the conversation to go on; the others stop it."""

_UUID = re.compile(
    r"([0-9a-f]{8})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{12})",
    re.IGNORECASE | re.ASCII,
)
_EVENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}", re.ASCII)


class Invalid(BrokerError):
    """A part of a request cannot be used: 422.

    Attributes:
        where: Such as ``("query", "limit")``.
        message: What is wrong with it; repeats nothing of it.
    """

    def __init__(self, where: Sequence[str], message: str) -> None:
        super().__init__(message)
        self.where = where
        self.message = message


class EventFilter(msgspec.Struct, frozen=True):
    """Which events of a conversation a client wants; an empty field asks nothing.

    Attributes:
        kind: Name of the event's class.
        source: ``agent``, ``user``, ``environment``, ``hook``.
        body: Stands in the text of a message, in whatever case.
        since: The event's own time at the earliest; naive, UTC.
        until: Before this time.
    """

    kind: str = ""
    source: str = ""
    body: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def takes(self, event: Event) -> bool:
        """Whether an entry is an event of OpenHands that is kept and is wanted."""
        if event.transient or event.event != EVENT or not _is_object(event.data):
            return False
        return self == EVERYTHING or self._wants(event.data)

    def _wants(self, data: bytes) -> bool:
        head = _read_head(data)
        if head is None:
            return False
        return (
            self.kind in ("", head.kind)
            and self.source in ("", head.source)
            and (not self.body or self.body in _message_text(head).casefold())
            and self._is_in_time(head)
        )

    def _is_in_time(self, head: _Head) -> bool:
        if self.since is None and self.until is None:
            return True
        moment = (
            read_moment(head.timestamp) if isinstance(head.timestamp, str) else None
        )
        if moment is None:
            return False
        return (self.since is None or self.since <= moment) and (
            self.until is None or moment < self.until
        )


EVERYTHING: Final = EventFilter()


class Search(msgspec.Struct, frozen=True):
    """A page of events that a client wants.

    Attributes:
        filter: Which events.
        limit: How many at most.
        reverse: The newest first.
        start: Where the page begins, this entry included; None for the end of the
            stream from which it is read.
        start_event: The same by the ``id`` inside an event, empty for not.
    """

    filter: EventFilter = EVERYTHING
    limit: int = LIMIT_MAX
    reverse: bool = False
    start: StreamId | None = None
    start_event: str = ""


# What is asked for.


def read_conversation(text: str, where: Sequence[str]) -> str:
    """The session of a conversation: its UUID, in lower case with dashes.

    Raises:
        Invalid: *text* is no UUID.
    """
    match = _UUID.fullmatch(text)
    if match is None:
        raise Invalid(where, "Input should be a valid UUID")
    return "-".join(match.groups()).lower()


def read_filter(query: Mapping[str, str]) -> EventFilter:
    """Read the parameters that ``search`` and ``count`` share.

    The names of Nov 2025's app server (``kind__eq``) count as well.

    Raises:
        Invalid: One of them cannot be used.
    """
    kind = _text(query, "kind") or _text(query, "kind__eq")
    return EventFilter(
        # Releases before 1.50 ask for the class with its module.
        kind=kind.rpartition(".")[2],
        source=_text(query, "source"),
        body=_text(query, "body").casefold(),
        since=_time(query, "timestamp__gte"),
        until=_time(query, "timestamp__lt"),
    )


def read_search(query: Mapping[str, str]) -> Search:
    """Read all parameters of ``search``.

    A ``page_id`` that is neither ours nor an event's is the same as none: so says the
    agent-server.

    Raises:
        Invalid: One of them cannot be used.
    """
    order = _text(query, "sort_order") or "TIMESTAMP"
    if order not in ("TIMESTAMP", "TIMESTAMP_DESC"):
        raise Invalid(
            ("query", "sort_order"), "Input should be 'TIMESTAMP' or 'TIMESTAMP_DESC'"
        )
    start, start_event = _page(query.get("page_id", ""))
    return Search(
        filter=read_filter(query),
        limit=_limit(query.get("limit", "")),
        reverse=order == "TIMESTAMP_DESC",
        start=start,
        start_event=start_event,
    )


def is_event_id(text: str) -> bool:
    """Whether an event may have this id; such text needs no quoting within JSON."""
    return _EVENT_ID.fullmatch(text) is not None


def read_ids(body: bytes, query: Sequence[str]) -> list[str]:
    """The ids of the events of a batch: of a JSON array, else of the query.

    Args:
        body: A JSON array of text, or nothing.
        query: Values of ``ids``, each one id or several with commas between.

    Raises:
        Invalid: There are none, too many, or the body is something else.
    """
    if not body:
        ids = [part for value in query for part in value.split(",") if part]
        where: tuple[str, ...] = ("query", "ids")
    else:
        where = ("body",)
        found = _json(body)
        if not isinstance(found, list) or not all(isinstance(i, str) for i in found):
            raise Invalid(where, "Input should be a valid list of ids")
        ids = found
    if not 0 < len(ids) <= LIMIT_MAX:
        raise Invalid(where, f"There should be 1 to {LIMIT_MAX} ids")
    return ids


def check_command(cmd: str, body: bytes) -> bytes:
    """The data of a command: *body* as it came; nothing is an empty object.

    Raises:
        Invalid: It is not what *cmd* takes.
    """
    arguments = _json(body) if body.strip() else {}
    if not isinstance(arguments, dict):
        raise Invalid(("body",), "Input should be a valid object")
    if cmd == "message":
        _check_message(arguments)
    elif cmd == "respond_to_confirmation":
        _check_type(arguments, "accept", bool, "a valid boolean", needed=True)
        _check_type(arguments, "reason", str, "a valid string")
    return body if arguments else b"{}"


def _check_message(message: dict[str, object]) -> None:
    if message.get("role", "user") not in ROLES:
        raise Invalid(("body", "role"), f"Input should be one of {', '.join(ROLES)}")
    content = message.get("content")
    if not isinstance(content, list):
        raise Invalid(("body", "content"), "Input should be a valid list")
    if not all(isinstance(p, dict) and isinstance(p.get("type"), str) for p in content):
        raise Invalid(("body", "content"), "Each part should be an object with a type")
    _check_type(message, "run", bool, "a valid boolean")


def _check_type(
    arguments: dict[str, object],
    name: str,
    wanted: type,
    words: str,
    *,
    needed: bool = False,
) -> None:
    if name not in arguments and not needed:
        return
    if not isinstance(arguments.get(name), wanted):
        raise Invalid(("body", name), f"Input should be {words}")


def _json(body: bytes) -> object:
    # As a whole, and by what services read it with: it is handed on without a look.
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Invalid(("body",), "JSON decode error") from None


def _text(query: Mapping[str, str], name: str) -> str:
    value = query.get(name, "")
    if len(value) > TEXT_CHARS_MAX:
        raise Invalid(
            ("query", name), f"String should have at most {TEXT_CHARS_MAX} characters"
        )
    return value


def _limit(text: str) -> int:
    if not text:
        return LIMIT_MAX
    plain = text.isascii() and text.isdigit() and len(text) <= len(str(LIMIT_MAX))
    limit = int(text) if plain else 0
    if not 0 < limit <= LIMIT_MAX:
        raise Invalid(
            ("query", "limit"), f"Input should be an integer from 1 to {LIMIT_MAX}"
        )
    return limit


def _page(text: str) -> tuple[StreamId | None, str]:
    try:
        start = parse_position(text).id
    except ValueError:
        return None, text if is_event_id(text) else ""
    return (None if start == FIRST_ID else start), ""


def _time(query: Mapping[str, str], name: str) -> datetime | None:
    text = query.get(name, "")
    if not text:
        return None
    # A plus that was not escaped has become a space.
    moment = read_moment(text) or read_moment("+".join(text.rsplit(" ", 1)))
    if moment is None:
        raise Invalid(("query", name), "Input should be a valid datetime")
    return moment


# What is inside of events.


class _Head(msgspec.Struct):
    """What filters look at; other types than expected match nothing."""

    kind: object = None
    source: object = None
    timestamp: object = None
    llm_message: object = None
    extended_content: object = None
    reasoning_content: object = None


class _Named(msgspec.Struct):
    id: object = None


_decode_head = msgspec.json.Decoder(_Head).decode
_decode_name = msgspec.json.Decoder(_Named).decode


def event_id(data: bytes) -> str:
    """The ``id`` inside an event; empty if there is none."""
    try:
        name = _decode_name(data).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return name if isinstance(name, str) else ""


def _read_head(data: bytes) -> _Head | None:
    try:
        return _decode_head(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _is_object(data: bytes) -> bool:
    return data.lstrip()[:1] == b"{"


def _message_text(head: _Head) -> str:
    """All that was said in a message, what was added to it and thought included."""
    message = head.llm_message
    if head.kind != "MessageEvent" or not isinstance(message, dict):
        return ""
    texts = [*_texts(message.get("content")), *_texts(head.extended_content)]
    if isinstance(head.reasoning_content, str):
        texts.append(head.reasoning_content)
    return " ".join(texts)


def _texts(content: object) -> list[str]:
    if not isinstance(content, list):
        return []
    texts = [part.get("text") for part in content if isinstance(part, dict)]
    return [text for text in texts if isinstance(text, str)]
