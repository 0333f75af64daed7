"""``/sockets``: the WebSockets of OpenHands V1, as its agent-server has them."""

from __future__ import annotations

import asyncio
import random
from functools import partial

from aiohttp import hdrs, web

from broker.disconnect import Disconnect
from broker.protocols.openhands.v1 import (
    BadQuery,
    read_after_seq,
    read_resend,
    read_session,
)
from broker.protocols.openhands.v1_formats import EVENTS, SESSION, SocketFormat
from broker.worker.doorway import (
    HANDED_OVER,
    Opening,
    check_upgrade,
    switching,
    take_over,
)
from broker.worker.edges.edge import error_response
from broker.worker.edges.openhands_sockets import (
    Desk,
    EventsDialect,
    SessionDialect,
    SocketDialect,
    close_as_openhands,
    last_words,
)
from broker.worker.edges.openhands_starts import AfterSeq, Arrival, Place, Resent
from broker.worker.edges.parts import Parts
from broker.worker.handshake import TERMINAL, Refusal, Wanted, check_origin
from broker.worker.limits import PerAddress
from broker.worker.snapshots import Snapshots
from broker.worker.starting import Reading

KEY = "session_api_key"
KEY_HEADER = "X-Session-API-Key"
CLOSE_DELAY_S = (1.0, 3.0)
TERMINAL_PER_S, TERMINAL_BURST = 2, 20
"""Refusals per address that are told by a close code."""
ENDED = frozenset(("session_evicted", "session_closed"))
"""Refusals after which a program must not come back: it has to be told by a code."""


class OpenHandsSockets:
    """Answers the requests below ``/sockets``.

    Args:
        parts: The parts of the worker.
        snapshots: Knows the states of conversations.
    """

    def __init__(self, parts: Parts, snapshots: Snapshots) -> None:
        self._settings = parts.settings
        self._doorway = parts.doorway
        self._snapshots = snapshots
        self._desk = Desk(parts.values, parts.applications, snapshots)
        self._terminal = PerAddress(TERMINAL_PER_S, TERMINAL_BURST)

    async def handle(
        self, request: web.BaseRequest, path: list[str]
    ) -> web.StreamResponse:
        """Open a socket.

        Raises:
            Refusal: It cannot be done.
        """
        accept = check_upgrade(request)
        try:
            match path[1:]:
                case ["events", name]:
                    opening = self._of_events(request, read_session(name))
                case ["session", name]:
                    opening = self._of_session(request, read_session(name))
                case _:
                    raise Refusal("not_found")
        except BadQuery as error:
            raise Refusal("bad_request", str(error)) from None
        return await self._doorway.open_websocket(request, accept, opening)

    def _of_events(self, request: web.BaseRequest, session: str) -> Opening:
        place = Resent(read_resend(request.query), self._settings.max_event_bytes)
        return self._opening(request, session, EventsDialect(self._desk), place)

    def _of_session(self, request: web.BaseRequest, session: str) -> Opening:
        seq = read_after_seq(request.query)
        dialect = SessionDialect(self._desk, seq)
        return self._opening(request, session, dialect, AfterSeq(seq))

    def _opening(
        self,
        request: web.BaseRequest,
        session: str,
        dialect: SocketDialect,
        place: Place,
    ) -> Opening:
        check_origin(request, self._settings)
        key = read_key_of(request)
        arrival = Arrival(self._snapshots, place, dialect)
        wanted = Wanted(session=session, reading=Reading(seek=arrival))
        speaks_first = key is None and self._doorway.host.asks_for_tokens
        return Opening(wanted, dialect, key, speaks_first)

    # Refusals.

    def refuse(self, request: web.BaseRequest, refusal: Refusal) -> web.StreamResponse:
        """By HTTP 403, or 503 for later; programs are told by a code what has ended."""
        if refusal.reason in ENDED and hdrs.ORIGIN not in request.headers:
            answer = self._show_out(request, refusal)
            if answer is not None:
                return answer
        status = _status(refusal)
        return error_response(
            Refusal(
                refusal.reason, refusal.message, status=status, headers=refusal.headers
            )
        )

    def _show_out(
        self, request: web.BaseRequest, refusal: Refusal
    ) -> web.StreamResponse | None:
        """Accept only to close: a page would come back each second, a program stops."""
        if not self._terminal.take(request.remote or ""):
            return None
        accept = check_upgrade(request)
        wire: SocketFormat = (
            SESSION if request.path.split("/")[2] == "session" else EVENTS
        )
        reason = TERMINAL[refusal.reason]
        transport, _early = take_over(request)
        transport.write(switching(accept) + last_words(wire, reason, refusal.details))
        asyncio.get_running_loop().call_later(
            random.uniform(*CLOSE_DELAY_S),  # noqa: S311 - spreading load
            partial(_close, transport, reason),
        )
        return HANDED_OVER


def read_key_of(request: web.BaseRequest) -> str | None:
    """The key that a request shows: of its query, or else of its header.

    An empty one is a wrong one.
    """
    return request.query.get(KEY, request.headers.get(KEY_HEADER))


def _status(refusal: Refusal) -> int:
    """The agent-server refuses before the upgrade with 403, whatever the reason."""
    if refusal.temporary:
        return 503
    return refusal.status if refusal.reason in ("bad_upgrade", "internal") else 403


def _close(transport: asyncio.Transport, reason: Disconnect) -> None:
    if not transport.is_closing():
        transport.write(close_as_openhands(reason))
        transport.close()
