"""Every reason to close a connection: close frame, log field and metric label.

The number alone tells a client what to do: 4000 to 4499 reconnect and resume,
4500 to 4999 do not. 1000 to 1999 are RFC 6455's own.
"""

from __future__ import annotations

from enum import Enum


class Disconnect(Enum):
    """Why the broker closes a connection.

    Attributes:
        code: The WebSocket close code.
        text: What a person reads; at most 123 bytes (RFC 6455 section 5.5).
    """

    # The client broke the protocol or left.
    NORMAL = (1000, "the client closed the connection")
    PROTOCOL_ERROR = (1002, "the client broke the WebSocket protocol")
    UNSUPPORTED_DATA = (1003, "only text frames are read here")
    INVALID_PAYLOAD = (1007, "a text frame was not UTF-8")
    FRAME_TOO_BIG = (1009, "a frame was larger than max_frame_bytes")

    # Reconnect and resume.
    DRAINING = (4000, "this server is going away; reconnect and resume")
    SLOW = (4001, "the socket was too slow for overflow=close; reconnect and resume")
    NO_PROGRESS = (4002, "the socket took nothing for too long; reconnect and resume")
    NO_PONG = (4003, "no answer to heartbeats; reconnect and resume")
    OVERLOADED = (4004, "the server sheds load; reconnect later and resume")

    INTERNAL = (4005, "the server failed; reconnect and resume")
    DISCONNECTED = (4006, "an operator closed it; reconnect and resume")

    # Do not come back with the same request.
    BAD_REQUEST = (4500, "the request is malformed")
    UNAUTHORIZED = (4501, "a valid token is needed")
    FORBIDDEN = (4503, "this is not allowed here")
    NOT_FOUND = (4504, "there is no such session")
    TOO_MANY_ERRORS = (4508, "too many bad frames on this connection")
    SESSION_EVICTED = (4509, "the user opened a newer session")
    TOKEN_EXPIRED = (4510, "the token has expired; connect again with a new one")
    REVOKED = (4511, "access was revoked")
    CONNECTION_REPLACED = (4512, "a newer connection took its place")
    SESSION_CLOSED = (4513, "the session was closed")

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.text = text

    @property
    def label(self) -> str:
        """The name in log fields and metric labels."""
        return self.name.lower()

    @property
    def retry(self) -> bool:
        """Whether the client should reconnect and resume."""
        return 4000 <= self.code < 4500
