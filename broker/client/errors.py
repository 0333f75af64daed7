"""What a program that uses the client has to expect.

::

    BrokerError
    +-- ClosedByServer       coming back is of no use
    +-- CommandRefused       the broker has not stored a command
    +-- CommandUnanswered    nobody knows whether it was stored
"""

from __future__ import annotations

from broker.errors import BrokerError


class ClosedByServer(BrokerError):
    """The server has ended it and said that coming back is of no use.

    Attributes:
        code: The close code, 4500 to 4999 or one of RFC 6455's own, or the HTTP status
            of a refusal (PROTOCOL.md, "Close codes" and "Refusals over HTTP").
        reason: For a person.
        retry: False, always: the same request would end in the same way.
    """

    retry = False

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class CommandRefused(BrokerError):
    """The broker answered a command with an error.

    Attributes:
        code: Such as ``forbidden`` or ``rate_limited``. After ``unavailable`` it may
            have been stored all the same.
        message: For a person.
        retry: Whether the same command may succeed later.
        id: The command's: say it again under this one, so that it is stored once.
    """

    def __init__(self, code: str, message: str, *, retry: bool, id: str) -> None:  # noqa: A002
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retry = retry
        self.id = id


class CommandUnanswered(BrokerError):
    """No answer came: nobody knows whether the command was stored.

    Attributes:
        id: The command's: of a client with a user, the same command under the same id
            is stored once within ``BROKER_COMMAND_DEDUP_S``, so it can be said again.
    """

    def __init__(self, why: str, *, id: str) -> None:  # noqa: A002
        super().__init__(why)
        self.id = id
