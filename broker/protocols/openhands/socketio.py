"""Socket.IO 5 in Engine.IO 4, as it stands in WebSocket text frames. Pure.

An Engine.IO packet is one digit and what it carries. A message carries a Socket.IO
packet: one digit, for binary ones the number of attachments and ``-``, a namespace and
``,`` unless that is ``/``, the number for an acknowledgement, and JSON. So
``42/a,7["x"]`` is event ``x`` in namespace ``/a``, to be acknowledged as 7.

Sources: the protocol documents of both, in the repository socketio/socket.io.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Final, NamedTuple

import msgspec
import orjson

from broker.protocols.native import BadFrame

DEFAULT_NAMESPACE: Final = "/"
PING: Final = b"2"
DISCONNECT: Final = b"41"


class Engine(IntEnum):
    """Types of Engine.IO packets."""

    OPEN = 0
    CLOSE = 1
    PING = 2
    PONG = 3
    MESSAGE = 4
    UPGRADE = 5
    NOOP = 6


class Kind(IntEnum):
    """Types of Socket.IO packets."""

    CONNECT = 0
    DISCONNECT = 1
    EVENT = 2
    ACK = 3
    CONNECT_ERROR = 4
    BINARY_EVENT = 5
    BINARY_ACK = 6


class Packet(NamedTuple):
    """One Engine.IO packet, with the Socket.IO packet in it if there is one.

    Attributes:
        engine: Its type.
        kind: Type of the Socket.IO packet; of no meaning unless this is a MESSAGE.
        namespace: Which the Socket.IO packet is for.
        id: To be acknowledged under this number; None for not at all.
        attachments: How many binary frames follow.
        data: What it carries, not looked at yet: in a MESSAGE it should be JSON.
    """

    engine: Engine
    kind: Kind = Kind.CONNECT
    namespace: str = DEFAULT_NAMESPACE
    id: int | None = None
    attachments: int = 0
    data: bytes = b""


class Said(NamedTuple):
    """An event that a client has emitted.

    Attributes:
        name: Of the event.
        arguments: JSON text of each.
    """

    name: str
    arguments: list[bytes]


_HEADER = re.compile(
    rb"(?P<kind>[0-6])(?:(?P<attachments>\d{1,2})-)?"
    rb"(?:(?P<namespace>/[^,]{0,255})(?:,|\Z))?(?P<id>\d{1,18})?"
)
_BINARY = (Kind.BINARY_EVENT, Kind.BINARY_ACK)
_ACKNOWLEDGED = (Kind.EVENT, Kind.ACK, *_BINARY)

_decode_array = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_object = msgspec.json.Decoder(dict[str, object]).decode
_decode_text = msgspec.json.Decoder(str).decode


def read_packet(payload: bytes) -> Packet:
    """Read the payload of a text frame of a client.

    Raises:
        BadFrame: It is no packet, or one that only servers send.
    """
    digit = payload[:1]
    if digit not in _ENGINE_DIGITS:
        raise BadFrame("bad_frame", "this is no Engine.IO packet")
    engine = Engine(int(digit))
    if engine is Engine.MESSAGE:
        return _read_message(payload[1:])
    return Packet(engine, data=payload[1:])


def _read_message(message: bytes) -> Packet:
    header = _HEADER.match(message)
    if header is None:
        raise BadFrame("bad_frame", "this is no Socket.IO packet")
    kind = Kind(int(header["kind"]))
    attachments, number = header["attachments"], header["id"]
    if (attachments is not None) is not (kind in _BINARY) or (
        number is not None and kind not in _ACKNOWLEDGED
    ):
        raise BadFrame("bad_frame", "this is no Socket.IO packet")
    data = message[header.end() :]
    if kind is Kind.CONNECT_ERROR or (kind is Kind.DISCONNECT and data):
        raise BadFrame("bad_frame", "no client sends such a packet")
    return Packet(
        Engine.MESSAGE,
        kind,
        _read_namespace(header["namespace"]),
        None if number is None else int(number),
        int(attachments or 0),
        data,
    )


def _read_namespace(name: bytes | None) -> str:
    if name is None:
        return DEFAULT_NAMESPACE
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise BadFrame("bad_frame", "a namespace is text") from None


def read_object(data: bytes) -> dict[str, object]:
    """The values of a JSON object.

    Raises:
        BadFrame: It is not JSON, or no object.
    """
    try:
        return _decode_object(data)
    except msgspec.ValidationError:
        raise BadFrame("bad_frame", "this must be an object") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _not_json() from None


def read_event(data: bytes) -> Said:
    """The name and the arguments of an event packet.

    Raises:
        BadFrame: It is not JSON, no array, or begins with no name.
    """
    try:
        parts = _decode_array(data)
    except msgspec.ValidationError:
        raise BadFrame("bad_frame", "an event is an array") from None
    except (msgspec.DecodeError, RecursionError):
        raise _not_json() from None
    try:
        name = _decode_text(parts[0])
    except (msgspec.DecodeError, UnicodeDecodeError, IndexError):
        raise BadFrame("bad_frame", "an event begins with its name") from None
    return Said(name, [bytes(part) for part in parts[1:]])


def _not_json() -> BadFrame:
    return BadFrame("bad_json", "the packet carries no JSON, or nested too deeply")


def open_packet(sid: str, interval_ms: int, timeout_ms: int, max_bytes: int) -> bytes:
    """The handshake of Engine.IO, without any transport to upgrade to.

    Args:
        sid: Name of the connection.
        interval_ms: Between the server's pings.
        timeout_ms: How much longer a client waits for one.
        max_bytes: Of what a client may send at once.
    """
    return b"0" + orjson.dumps(
        {
            "sid": sid,
            "upgrades": [],
            "pingTimeout": timeout_ms,
            "pingInterval": interval_ms,
            "maxPayload": max_bytes,
        }
    )


def pong_packet(data: bytes) -> bytes:
    """The answer to a ping, which repeats what that carried."""
    return b"3" + data


def connect_packet(sid: str) -> bytes:
    """A client is connected to the default namespace."""
    return b"40" + orjson.dumps({"sid": sid})


def connect_error_packet(
    message: str, data: object = None, namespace: str = DEFAULT_NAMESPACE
) -> bytes:
    """A client may not connect to a namespace; it does not try again by itself.

    Args:
        message: For a person.
        data: For the client, None for nothing.
        namespace: As it was asked for.
    """
    body = {"message": message} if data is None else {"message": message, "data": data}
    where = b"" if namespace == DEFAULT_NAMESPACE else namespace.encode() + b","
    return b"44" + where + orjson.dumps(body)


def event_packet(name: bytes, data: bytes) -> bytes:
    """An event with one argument.

    Args:
        name: In need of no quoting.
        data: JSON text, which stands there byte for byte.
    """
    return b'42["%b",%b]' % (name, data)


def ack_packet(number: int) -> bytes:
    """An event was taken; nothing is said about it."""
    return b"43%d[]" % number


_ENGINE_DIGITS = frozenset(b"%d" % engine for engine in Engine)
