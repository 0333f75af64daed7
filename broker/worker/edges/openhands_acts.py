"""What users do to conversations by HTTP, on its way to the services.

A request has no connection that its commands could be counted on. So all requests of a
user, or of an address where nobody says who he is, share one allowance.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets

from aiohttp import web

from broker.control.identity import Identity
from broker.control.upstream import TOO_LARGE, Answer
from broker.metrics import catalog
from broker.metrics.slots import Row
from broker.protocols.openhands.rest import OPENING
from broker.worker.entrance import Entrance
from broker.worker.handshake import Refusal
from broker.worker.plane import ControlPlane

SENDERS_MAX = 10_000


class HttpSender:
    """Who says commands by HTTP; a `broker.control.upstream.Sender`.

    Attributes:
        user: Whose commands; empty for nobody's.
        connection_id: The name that their entries have instead of a connection's.
        command_allowance: State of the rate limit, None until it is used.
    """

    __slots__ = ("command_allowance", "connection_id", "user")

    def __init__(self, user: str) -> None:
        self.user = user
        self.connection_id = f"http-{secrets.token_hex(8)}"
        self.command_allowance: tuple[float, float] | None = None


class Acts:
    """Hands commands on for those who have no connection.

    Args:
        values: The process's metric row.
        entrance: Opens sessions.
        plane: Stores commands.
    """

    def __init__(self, values: Row, entrance: Entrance, plane: ControlPlane) -> None:
        self._values = values
        self._entrance = entrance
        self._plane = plane
        self._senders: dict[str, HttpSender] = {}

    async def do(
        self, identity: Identity, address: str, session: str, cmd: str, data: bytes
    ) -> Answer:
        """Append a command to the command stream.

        One by which a user wants a conversation to go on opens its session again, if
        that was evicted or closed, once it is stored.

        Args:
            identity: Who says it, with the right to.
            address: From where.
            session: To which session.
            cmd: Its name.
            data: JSON text.
        """
        user = identity.user
        if user:
            self._plane.sessions.active(user, session)
        sender = self._sender(user, address)
        answer = await self._plane.upstream.send(sender, session, cmd, data)
        self._values[catalog.COMMANDS.slots[answer.code or "stored"]] += 1
        if user and not answer.code and cmd in OPENING:
            # It is stored, and to say it again would store it twice. Whether the
            # session is open the client learns when it connects.
            with contextlib.suppress(Refusal):
                await self._entrance.start_session(
                    identity,
                    session,
                    deliberate=True,
                    as_of_ms=int(answer.stream_id.partition("-")[0]),
                )
        return answer

    def _sender(self, user: str, address: str) -> HttpSender:
        key = f"user {user}" if user else f"address {address}"
        # Taken out and put back, so the first one is who was silent for longest.
        sender = self._senders.pop(key, None) or HttpSender(user)
        self._senders[key] = sender
        if len(self._senders) > SENDERS_MAX:
            del self._senders[next(iter(self._senders))]
        return sender


class BadBody(Exception):
    """The body of a request cannot be had.

    Attributes:
        status: The HTTP status that says why.
        message: The same in words.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


async def read_body(
    request: web.BaseRequest, max_bytes: int, timeout_s: float
) -> bytes:
    """The body of a request.

    Raises:
        BadBody: It is too large, broken, or did not come in time.
    """
    received = bytearray()
    if (request.content_length or 0) > max_bytes:
        raise BadBody(413, TOO_LARGE.message)
    try:
        async with asyncio.timeout(timeout_s):
            async for part in request.content.iter_any():
                received += part
                if len(received) > max_bytes:
                    raise BadBody(413, TOO_LARGE.message)
    except TimeoutError:
        raise BadBody(408, "the body did not come in time") from None
    except (web.RequestPayloadError, ConnectionError):
        raise BadBody(400, "the body cannot be read") from None
    return bytes(received)
