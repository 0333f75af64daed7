"""How the broker talks with one kind of client, apart from the events themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from broker.disconnect import Disconnect
from broker.protocols import websocket
from broker.protocols.formats import Format
from broker.protocols.native import BadFrame

if TYPE_CHECKING:
    from broker.worker.connection import Connection


class Farewell(NamedTuple):
    """The last that a connection is sent.

    Attributes:
        words: What says why, in frames of the protocol; may be empty.
        close: The WebSocket close frame; empty where the socket just ends.
    """

    words: bytes
    close: bytes


class Dialect:
    """What differs between kinds of clients: how they are heard, told and shown out.

    One object serves all connections of its kind, unless a protocol needs something
    kept for each. This one is for who cannot speak: it tells in the words of its format
    and says goodbye without a close frame.

    Attributes:
        format: In which a connection gets its events at first.
    """

    def __init__(self, wire: Format) -> None:
        self.format = wire

    def read_token(self, payload: bytes) -> str | None:
        """The token in the first frame of a client that has not said who it is.

        Raises:
            BadFrame: This is no such frame.
        """
        raise BadFrame("unauthorized", "this protocol has no such frame")

    def hear(self, connection: Connection, payload: bytes) -> None:
        """Take a text frame of a client that is in."""

    def hear_binary(self, connection: Connection, payload: bytes) -> None:
        """The same for a binary frame."""
        connection.close(Disconnect.UNSUPPORTED_DATA)

    def notify(
        self,
        connection: Connection,
        event: str,
        data: object,
        session: str | None = None,
    ) -> None:
        """Tell an event of the broker itself.

        They are those of ``broker.v1`` (PROTOCOL.md), each with its ``data``. A
        protocol that has no word for one says nothing.
        """
        frame = connection.format.notice(event, data, session)
        if frame:
            connection.send(frame)

    def hold(self, connection: Connection, frame: bytes) -> None:
        """Keep a frame until the subscription has caught up; the newest counts."""

    def farewell(
        self, connection: Connection, reason: Disconnect, details: Mapping[str, object]
    ) -> Farewell | None:
        """The last words, and how the socket is closed; None to cut it without any."""
        return Farewell(self.closing(connection, reason, details), b"")

    @staticmethod
    def closing(
        connection: Connection, reason: Disconnect, details: Mapping[str, object]
    ) -> bytes:
        """The ``closing`` frame of reasons that have a meaning of ours."""
        if reason.code < 4000:
            return b""
        data = {
            "code": reason.code,
            "reason": reason.label,
            "retry": reason.retry,
            **details,
        }
        return connection.format.notice("closing", data)


def close_frame(reason: Disconnect) -> bytes:
    """The close frame with the code and text of the table."""
    return websocket.close_frame(reason.code, reason.text)
