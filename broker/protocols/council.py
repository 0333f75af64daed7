"""The hub of "The Council": its envelope, its chunks of text, its commands.

Its front end has no cursor and tells no event from its duplicate. It reads ids of nodes
above ``data`` or within, whichever is there, so they stand in both places here; and it
only ever appends the ``chunk`` of a ``token_stream`` to what it has of the node.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple, cast

import msgspec
import orjson

from broker.disconnect import Disconnect
from broker.entry import Event
from broker.model import is_session_name
from broker.protocols import native, websocket
from broker.protocols.formats import Editor, Format
from broker.protocols.native import BadFrame, ClientFrame
from broker.ring.records import unpack_event

AHEAD_MAX_NS = 60_000_000_000
"""How far beyond this pod's clock the time of a stream id is believed."""
CHUNK_BYTES_MAX = 64 * 1024
"""JSON text of a merged ``chunk``; larger ones come as they were published."""
UNTOLD_GAPS = frozenset({"transient", "conflated"})
"""Holes that were asked for, or that the publisher wanted: nothing is lost."""

_NOTHING = msgspec.Raw(b"null")
_WHITESPACE = b" \t\r\n"
_CHUNK_PREFIX = b'{"event":"token_stream",'

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Clock:
    """Gives every timestamp once, each later than the one before.

    Args:
        now_ns: Unix time.
    """

    def __init__(self, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._now_ns = now_ns
        self._last_ns = 0

    def stamp(self, ms: int, n: int) -> bytes:
        """The time of stream id ``ms-n`` in RFC 3339, or as little later as it must be.

        *n* counts as nanoseconds. An id far in the future would drag along everything
        after it, so it is believed up to ``AHEAD_MAX_NS`` beyond the present.
        """
        at_ns = ms * 1_000_000 + n
        if at_ns > self._last_ns:
            at_ns = min(at_ns, self._now_ns() + AHEAD_MAX_NS)
        return self._take(at_ns)

    def stamp_now(self) -> bytes:
        """The present, for what is no entry of a stream."""
        return self._take(self._now_ns())

    def _take(self, at_ns: int) -> bytes:
        self._last_ns = at_ns = max(at_ns, self._last_ns + 1)
        second, nano = divmod(at_ns, 1_000_000_000)
        return b"%b.%09dZ" % (_second(second), nano)


# Events share their second with thousands of others.
@lru_cache(maxsize=64)
def _second(seconds: int) -> bytes:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


class CouncilFormat:
    """Entries in the envelope of the hub.

    ``data`` is the published object with ``session_uuid`` added if it has none, and
    ``node_id`` if the entry has one. Another value than an object stands in its
    ``value``; null is an empty object.

    Every frame has a timestamp of its own. So an entry that is encoded again, for a
    replay, does not have the bytes that it had before, and what was made for one
    socket at some time must not be sent to another one later: see ``shared``.

    Args:
        clock: Makes the timestamps.

    Attributes:
        shared: Whether a page made for one subscription may serve another one.
    """

    name = "council"
    heartbeat = websocket.ping_frame()
    answers = True
    shared = False

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()

    def event(self, session: bytes, ms: int, n: int, seq: int, event: Event) -> bytes:
        """A published event as one text frame."""
        del seq
        node_id = _quoted(event.node_id) if event.node_id else b""
        entry = native.Told(session, _quoted(event.event), event.data, node_id)
        return self._frame(self._clock.stamp(ms, n), entry)

    def recorded(self, ms: int, n: int, seq: int, payload: bytes) -> bytes:
        """The same from the frame of ``broker.v1`` that the reader has built."""
        del seq
        record = unpack_event(payload)
        entry = native.split_event(record.frame, record.header_bytes)
        return self._frame(self._clock.stamp(ms, n), entry)

    def skipped(
        self, session: bytes, ms: int, n: int, seq: int, reason: str, detail: bytes
    ) -> bytes:
        """The place of an entry that broke the contract, as the event ``skipped``."""
        del seq
        message = detail.decode("ascii", "replace")
        data = orjson.dumps({"reason": reason, "message": message})
        entry = native.Told(session, b'"skipped"', data, b"")
        return self._frame(self._clock.stamp(ms, n), entry)

    def notice(self, event: str, data: object, session: str | None = None) -> bytes:
        """``gap``, ``reset`` or ``error``; empty for what has no word here."""
        told = _translate(event, cast("dict[str, Any]", data))
        if told is None:
            return b""
        name, body = told
        if session is not None:
            body["session_uuid"] = session
        timestamp = self._clock.stamp_now()
        return _envelope(name, timestamp, b"", orjson.dumps(body))

    def editor(self, lagging: bool) -> Editor | None:
        """Merges chunks for a client whose socket is behind.

        Args:
            lagging: Whether it is; one that has asked for the past gets all of it as
                it was published.
        """
        return ChunkMerger() if lagging else None

    def _frame(self, timestamp: bytes, entry: native.Told) -> bytes:
        data, node_id = _complete(entry)
        return _envelope(entry.name, timestamp, node_id, data)


# Events.


def _envelope(name: bytes, timestamp: bytes, node_id: bytes, data: bytes) -> bytes:
    node = b',"node_id":' + node_id if node_id else b""
    return websocket.text_frame(
        b'{"event":%b,"timestamp":"%b"%b,"data":%b}' % (name, timestamp, node, data)
    )


def _complete(entry: native.Told) -> tuple[bytes, bytes]:
    """``data`` with the ids that belong into it, and the id of the node."""
    text, node_id = entry.data.strip(_WHITESPACE), entry.node_id
    if text.startswith(b"{"):
        try:
            fields = _decode_object(text)
        except (msgspec.DecodeError, RecursionError):
            return _complete_unread(text, entry)
    else:
        fields = {} if text == b"null" else {"value": msgspec.Raw(text)}
    own = bytes(fields.get("node_id", _NOTHING))
    if not _is_name(own) and node_id:
        fields["node_id"] = msgspec.Raw(node_id)
    elif _is_name(own) and not node_id:
        node_id = own
    if not _is_name(bytes(fields.get("session_uuid", _NOTHING))):
        fields["session_uuid"] = msgspec.Raw(b'"%b"' % entry.session)
    return msgspec.json.encode(fields), node_id


def _complete_unread(text: bytes, entry: native.Told) -> tuple[bytes, bytes]:
    """The same for an object that is nested too deeply to be read here.

    Of a key that occurs twice the last one counts, and that is the published one.
    """
    node = b'"node_id":%b,' % entry.node_id if entry.node_id else b""
    ids = b'{"session_uuid":"%b",%b' % (entry.session, node)
    return ids + text[1:], entry.node_id


def _is_name(json: bytes) -> bool:
    """Whether it is JSON text of a string that is not empty."""
    return json.startswith(b'"') and json != b'""'


@lru_cache(maxsize=1024)
def _quoted(text: bytes) -> bytes:
    return orjson.dumps(text.decode())


# What the broker itself has to say.


def _translate(
    event: str, data: dict[str, Any]
) -> tuple[bytes, dict[str, object]] | None:
    match event:
        case "gap" if data["reason"] not in UNTOLD_GAPS:
            return b'"gap"', dict(data)
        case "reset":
            return b'"reset"', dict(data)
        case "error":
            return b'"error"', _explain(data["message"], data)
        case "unsubscribed" if "reason" in data:
            why = Disconnect[data["reason"].upper()].text
            return b'"error"', _explain(why, data | {"code": data["reason"]})
    return None


def _explain(text: str, data: dict[str, Any]) -> dict[str, object]:
    """``error`` is what its front end logs; the rest is for programs."""
    body: dict[str, object] = {"error": text, "code": data["code"]}
    if "session" in data:
        body["session_uuid"] = data["session"]
    return body | {key: data[key] for key in ("ref", "replaced_by") if key in data}


# Merging.


class _TokenStream(msgspec.Struct):
    timestamp: msgspec.Raw
    node_id: msgspec.Raw
    data: dict[str, msgspec.Raw]


_decode_token_stream = msgspec.json.Decoder(_TokenStream).decode


class _Chunk(NamedTuple):
    """One ``token_stream`` that may be joined with its neighbours.

    Attributes:
        frame: The whole frame.
        timestamp: Its timestamp.
        node_id: JSON text.
        text: JSON text of ``chunk``.
        rest: ``data`` without it.
    """

    frame: bytes
    timestamp: bytes
    node_id: bytes
    text: bytes
    rest: dict[str, msgspec.Raw]


class ChunkMerger:
    """Joins neighbouring chunks of one node: the text is the same, the frames fewer.

    They must be of the same session, node and agent, and equal in everything else.
    What is joined is bounded by ``CHUNK_BYTES_MAX``.

    Attributes:
        held: Nothing: it holds no frame back for later.
    """

    held = b""

    def __init__(self) -> None:
        self._chunks: list[_Chunk] = []
        self._size = 0

    def add(self, frame: bytes) -> bytes:
        """The next frame; returns those that nothing more can be joined with."""
        chunk = _read_chunk(frame)
        if chunk is None:
            return self.finish() + frame
        size = len(chunk.text)
        if self._chunks and self._is_neighbour(chunk):
            self._chunks.append(chunk)
            self._size += size
            return b""
        done = self.finish()
        self._chunks.append(chunk)
        self._size = size
        return done

    def _is_neighbour(self, chunk: _Chunk) -> bool:
        first = self._chunks[0]
        return (
            self._size + len(chunk.text) <= CHUNK_BYTES_MAX
            and chunk.node_id == first.node_id
            and chunk.rest == first.rest
        )

    def finish(self) -> bytes:
        """What was kept back, as one frame with the timestamp of its newest chunk."""
        chunks, self._chunks = self._chunks, []
        if len(chunks) < 2:
            return chunks[0].frame if chunks else b""
        last = chunks[-1]
        text = b'"%b"' % b"".join(chunk.text[1:-1] for chunk in chunks)
        data = msgspec.json.encode({**last.rest, "chunk": msgspec.Raw(text)})
        return _envelope(b'"token_stream"', last.timestamp, last.node_id, data)


def _read_chunk(frame: bytes) -> _Chunk | None:
    """A chunk of a node, None for every other frame."""
    header = _header_bytes(frame)
    if not frame.startswith(_CHUNK_PREFIX, header):
        return None
    try:
        read = _decode_token_stream(frame[header:])
    except (msgspec.DecodeError, RecursionError):
        return None
    text = bytes(read.data.pop("chunk", _NOTHING))
    if not text.startswith(b'"'):
        return None
    timestamp = bytes(read.timestamp)[1:-1]
    return _Chunk(frame, timestamp, bytes(read.node_id), text, read.data)


def _header_bytes(frame: bytes) -> int:
    """Size of the header of an unmasked frame (RFC 6455 section 5.2)."""
    size = frame[1] if frame else 0
    return {126: 4, 127: 10}.get(size, 2)


# Commands.


def named_session(frame: ClientFrame) -> str:
    """The session that a command names in its ``data``, empty for none.

    It is ``session_id`` in the chat box and ``session_uuid`` everywhere else.

    Raises:
        BadFrame: What it names cannot be one.
    """
    arguments = frame.arguments
    named = arguments.get("session_id") or arguments.get("session_uuid") or ""
    if not isinstance(named, str) or (named and not is_session_name(named)):
        message = "data.session_id is not the name of a session"
        raise BadFrame("bad_session", message, frame.id)
    return named


COUNCIL: Final[Format] = CouncilFormat()
