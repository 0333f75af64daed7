"""What workers ask of the reader: JSON lines over a Unix socket, one way only.

The answers come as JOIN and REFUSED records in the ring, so they cannot overtake or
be overtaken by events. Requests of one worker are handled in the order sent; the end
of its connection takes back all its watches.
"""

from __future__ import annotations

import msgspec


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """First request on a connection.

    Attributes:
        worker: Board row of the worker.
    """

    worker: int


class Watch(msgspec.Struct, frozen=True, tag="watch"):
    """Read this session's stream into the ring.

    Attributes:
        token: A number of the worker's choice, repeated in the answer.
        session: The session's name.
        have: ``(ms, n, seq)`` of the last record that the worker has drained of this
            session, when it knows it from an earlier channel; seq 0 for not known.
        channel: The channel number under which it drained it, 0 for none.
    """

    token: int
    session: str
    have: tuple[int, int, int] | None = None
    channel: int = 0


class Unwatch(msgspec.Struct, frozen=True, tag="unwatch"):
    """This worker needs the session no longer."""

    session: str


Request = Hello | Watch | Unwatch

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)


def encode(request: Request) -> bytes:
    """One line on the wire."""
    return _encoder.encode(request) + b"\n"


def decode(line: bytes) -> Request:
    """Read one line.

    Raises:
        msgspec.MsgspecError: It is no request.
    """
    return _decoder.decode(line)
