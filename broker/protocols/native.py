"""The JSON of ``broker.v1``: what a text frame says, without the frame around it."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Final, NamedTuple

import msgspec
import orjson

from broker.entry import Event
from broker.errors import BrokerError
from broker.protocols.timestamps import default_timestamp

SUBPROTOCOL: Final = "broker.v1"

HEARTBEAT: Final = b'{"event":"heartbeat"}'

_DATA, _TIMESTAMP = b',"data":', b',"timestamp":"'
_MAX_NAME_CHARS = 128
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=_MAX_NAME_CHARS)]

_NOT_JSON = "the frame is not JSON"
_WRONG_SHAPE = (
    'a frame is {"cmd": text, "id": text, "session": text, "data": object}; all but cmd'
    " may be left out; cmd and id have 1 to 128 characters"
)


class ClientFrame(msgspec.Struct, frozen=True):
    """What a client asks for; unknown keys are ignored.

    Attributes:
        cmd: The command's name, 1 to 128 characters.
        id: The client's name for this frame, 1 to 128 characters; the ``ref`` of
            the answer.
        session: Which session a command is for; by default that of the path.
        data: The arguments: the JSON text of an object or null, as it came.
    """

    cmd: _Name
    id: _Name | None = None
    session: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def arguments(self) -> dict[str, object]:
        """The arguments as values; nothing given is the same as none."""
        return _decode_arguments(self.data) or {}


class BadFrame(BrokerError):
    """A client frame cannot be understood or done; the connection stays.

    Attributes:
        code: Such as ``bad_json``, for the ``error`` frame and metrics.
        message: For the developer of the client; repeats nothing of the frame.
        ref: The frame's ``id`` where that could be read.
        retry: Whether the same frame may succeed later.
    """

    def __init__(
        self, code: str, message: str, ref: str | None = None, *, retry: bool = False
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.ref = ref
        self.retry = retry


_decode_frame = msgspec.json.Decoder(ClientFrame).decode
_decode_arguments = msgspec.json.Decoder(dict[str, object] | None).decode


def position_text(ms: int, n: int, seq: int) -> bytes:
    """A position as it stands on the wire; *seq* 0 is unknown and left out."""
    return b"%d-%d@%d" % (ms, n, seq) if seq else b"%d-%d" % (ms, n)


def event_json(session: bytes, ms: int, n: int, seq: int, event: Event) -> bytes:
    """A published event: ``id, seq, session, event, data, timestamp, node_id``.

    ``data`` stands there byte for byte as it was published. *seq* 0 is unknown: the
    frame has no ``seq`` then. An empty ``node_id`` is left out. *session* must be a
    session name: those need no quoting within JSON.
    """
    # One formatting of bytes per event: no str is built and encoded again. Called for
    # every event and worker; 0.8 us.
    node_id = b',"node_id":' + _quoted(event.node_id) if event.node_id else b""
    timestamp = event.timestamp or default_timestamp(ms, n)
    name = _quoted(event.event)
    if seq:
        return (
            b'{"id":"%d-%d@%d","seq":%d,"session":"%b","event":%b,"data":%b,'
            b'"timestamp":"%b"%b}'
        ) % (ms, n, seq, seq, session, name, event.data, timestamp, node_id)
    return (
        b'{"id":"%d-%d","session":"%b","event":%b,"data":%b,"timestamp":"%b"%b}'
    ) % (ms, n, session, name, event.data, timestamp, node_id)


class Told(NamedTuple):
    """What is told of a published event, as parts of JSON text.

    Attributes:
        session: Its session, without quotes.
        name: The event's name, quoted.
        data: Any value.
        node_id: Quoted; empty for none.
    """

    session: bytes
    name: bytes
    data: bytes
    node_id: bytes


def split_event(frame: bytes, start: int) -> Told:
    """Cut up what `event_json` has put together; *start* is where it begins.

    Other formats stand on what the reader has built. Nothing is parsed: what is nested
    so deeply that one process could just read it would be too deep for the next, and
    not a byte changes. A quote within a JSON string has a backslash before it, so a
    comma and a quote are never inside one.
    """
    data_at = frame.index(_DATA, start)
    end = frame.rindex(_TIMESTAMP, data_at)
    head, tail = frame[start:data_at], frame[end:]
    session, _, name = head.partition(b'"session":"')[2].partition(b'","event":')
    node_id = tail.partition(b',"node_id":')[2][:-1]
    return Told(session, name, frame[data_at + len(_DATA) : end], node_id)


def skipped_json(
    session: bytes, ms: int, n: int, seq: int, reason: str, detail: bytes
) -> bytes:
    """An entry that broke the contract: it takes its place in the log by ``id``."""
    frame: dict[str, object] = {"id": position_text(ms, n, seq).decode()}
    if seq:
        frame["seq"] = seq
    frame["session"] = session.decode()
    frame["event"] = "skipped"
    frame["data"] = {"reason": reason, "message": detail.decode("ascii", "replace")}
    return orjson.dumps(frame)


def notice_json(event: str, data: object, session: str | None = None) -> bytes:
    """An event of the broker itself; without ``id``, so it moves no position.

    *data* is what orjson knows, with positions as text.
    """
    if session is None:
        return orjson.dumps({"event": event, "data": data})
    return orjson.dumps({"event": event, "session": session, "data": data})


def read_client_frame(payload: bytes) -> ClientFrame:
    """Read the text of a client frame.

    Raises:
        BadFrame: It is not JSON, or not ``{"cmd": ..., "id": ..., "data": {...}}``.
    """
    try:
        frame = _decode_frame(payload)
        # It must be sound as a whole: a command hands it on without a look.
        _decode_arguments(frame.data)
    except msgspec.ValidationError:
        raise _wrong_shape(payload) from None
    except RecursionError:
        raise BadFrame("bad_json", "the frame is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadFrame("bad_json", _NOT_JSON) from None
    return frame


def _wrong_shape(payload: bytes) -> BadFrame:
    try:
        frame = orjson.loads(payload)
    except orjson.JSONDecodeError:
        # The shape was found wrong before the end of the text was seen.
        return BadFrame("bad_json", _NOT_JSON)
    ref = frame.get("id") if isinstance(frame, dict) else None
    known = isinstance(ref, str) and 0 < len(ref) <= _MAX_NAME_CHARS
    return BadFrame("bad_frame", _WRONG_SHAPE, ref if known else None)


# Names of events and nodes repeat: 0.04 us instead of 0.08. At most 1024 bytes each.
@lru_cache(maxsize=1024)
def _quoted(text: bytes) -> bytes:
    return orjson.dumps(text.decode())
