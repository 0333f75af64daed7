"""Every exception that crosses a package boundary.

::

    BrokerError
    +-- ConfigError          a setting is unknown, unusable or contradicts another
    +-- StoreError           Redis could not do what was asked
    |   +-- StoreUnavailable     no connection, no answer, or not ready: try again
    |   +-- StoreRefused         Redis answered with an error that a retry repeats
    |   +-- ServerUnsuitable     too old, a replica, or a mode that is not supported
    +-- RingCorrupted        a record in the ring breaks the layout
    +-- ProtocolError        a peer broke the rules of its protocol
    |   +-- FrameError           a WebSocket frame breaks RFC 6455
    +-- BadFrame             a client frame cannot be understood; the connection stays
    +-- BadClaims            what a token says about its owner cannot be used
    +-- Unauthorized         a token does not prove who its owner is
    +-- AuthUnavailable      a token cannot be judged now
"""

from __future__ import annotations


class BrokerError(Exception):
    """Base of all errors that the broker raises on purpose."""


class ConfigError(BrokerError):
    """A setting cannot be used; the message names it, its value and what is allowed."""


class StoreError(BrokerError):
    """Redis could not do what was asked."""


class StoreUnavailable(StoreError):
    """No connection, no answer in time, or the server is not ready: try again."""


class StoreRefused(StoreError):
    """Redis answered with an error that a retry would repeat.

    Attributes:
        kind: The first word of the answer, such as ``WRONGTYPE``.
    """

    def __init__(self, answer: str) -> None:
        super().__init__(answer)
        self.kind = answer.partition(" ")[0]


class ServerUnsuitable(StoreError):
    """The server is too old, a replica, or runs in a mode that is not supported."""


class RingCorrupted(BrokerError):
    """A record in the ring breaks the layout although the writer has not lapped it.

    Attributes:
        position: Where in the ring the record starts.
    """

    def __init__(self, position: int, why: str) -> None:
        super().__init__(f"ring record at {position}: {why}")
        self.position = position


class ProtocolError(BrokerError):
    """A peer broke the rules of its protocol.

    Attributes:
        code: The WebSocket close code that says so (RFC 6455 section 7.4.1).
    """

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code
