"""``/v1``: ``broker.v1`` over WebSocket, event streams, history."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import hdrs, web

from broker.config import Settings
from broker.disconnect import Disconnect
from broker.protocols import websocket
from broker.protocols.formats import NATIVE, SSE
from broker.protocols.native import BadFrame, ClientFrame, read_client_frame
from broker.protocols.sse import retry_block
from broker.worker.connection import Connection
from broker.worker.dialect import Dialect, Farewell, close_frame
from broker.worker.doorway import (
    HANDED_OVER,
    Doorway,
    Opening,
    check_upgrade,
    switching,
    take_over,
)
from broker.worker.edges.edge import HEADERS, Outbox, error_response
from broker.worker.handshake import (
    TERMINAL,
    Refusal,
    Wanted,
    check_origin,
    read_request,
    read_token,
)
from broker.worker.limits import PerAddress

TERMINAL_DELAY_S = (1.0, 3.0)
TERMINAL_PER_S, TERMINAL_BURST = 2, 20
"""Terminal refusals per address that are told by a close code."""
SSE_RETRY_MS = (1000, 5000)
PREFLIGHT_S = 600
"""How long a browser may remember that a page may ask."""
SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Cache-Control: no-store\r\nX-Accel-Buffering: no\r\nConnection: close\r\n"
)

HistoryHandler = Callable[[web.BaseRequest, list[str]], Awaitable[web.Response]]
Hear = Callable[[Connection, bytes], None]


class NativeDialect(Dialect):
    """``broker.v1``.

    Args:
        hear: Does what a client says.
    """

    def __init__(self, hear: Hear) -> None:
        super().__init__(NATIVE)
        self._hear = hear

    def read_token(self, payload: bytes) -> str:
        """The token of an ``auth`` frame.

        Raises:
            BadFrame: It is none.
        """
        frame: ClientFrame = read_client_frame(payload)
        token = frame.arguments.get("token")
        if frame.cmd != "auth" or not isinstance(token, str):
            raise BadFrame("unauthorized", "the first frame is auth with data.token")
        return token

    def hear(self, connection: Connection, payload: bytes) -> None:
        """Do what a frame asks for."""
        self._hear(connection, payload)

    def farewell(
        self, connection: Connection, reason: Disconnect, details: Mapping[str, object]
    ) -> Farewell:
        """``closing``, then a close frame with the same code."""
        return Farewell(self.closing(connection, reason, details), close_frame(reason))


class NativeEdge:
    """Our own clients.

    Args:
        settings: The effective settings.
        doorway: Opens sockets.
        hear: Does what a client says.
        history: Answers questions about the past.
    """

    def __init__(
        self, settings: Settings, doorway: Doorway, hear: Hear, history: HistoryHandler
    ) -> None:
        self._settings = settings
        self._doorway = doorway
        self._host = doorway.host
        self._history = history
        self._websocket = NativeDialect(hear)
        self._event_stream = Dialect(SSE)
        self._terminal = PerAddress(TERMINAL_PER_S, TERMINAL_BURST)
        self._outbox = Outbox()

    async def handle(
        self, request: web.BaseRequest, path: list[str]
    ) -> web.StreamResponse:
        """Answer a request below ``/v1``.

        Raises:
            Refusal: It cannot be done.
        """
        match path[1:]:
            case ["ws"]:
                return await self._open_websocket(request, "")
            case ["ws", *rest]:
                return await self._open_websocket(request, "/".join(rest) or "/")
            case ["sse", *rest] if rest:
                return await self._open_sse(request, "/".join(rest) or "/")
            case ["sessions", session, "events", *rest] if session:
                return await self._show_history(request, [session, *rest])
        raise Refusal("not_found")

    async def _show_history(
        self, request: web.BaseRequest, path: list[str]
    ) -> web.Response:
        check_origin(request, self._settings)
        token = read_token(request, self._settings)
        identity = await self._host.identify(token, "")
        self._host.check_right(identity, path[0])
        return self._outbox.take(await self._history(request, path))

    async def _open_websocket(
        self, request: web.BaseRequest, session: str
    ) -> web.StreamResponse:
        accept = check_upgrade(request)
        wanted = read_request(request, session, self._settings)
        token = read_token(request, self._settings)
        speaks_first = token is None and self._host.asks_for_tokens
        opening = Opening(wanted, self._websocket, token, speaks_first)
        return await self._doorway.open_websocket(request, accept, opening)

    async def _open_sse(
        self, request: web.BaseRequest, session: str
    ) -> web.StreamResponse:
        if request.method == hdrs.METH_OPTIONS:
            return self._permit(request)
        if request.method != hdrs.METH_GET:
            raise Refusal("bad_request", "an event stream is read with GET")
        wanted = self._read_sse(request, session)
        token = read_token(request, self._settings)
        head = SSE_HEAD + _cors(request.headers.get(hdrs.ORIGIN, "")) + b"\r\n"
        opening = Opening(wanted, self._event_stream, token, greeting=head)
        return await self._doorway.open_stream(request, opening)

    def _permit(self, request: web.BaseRequest) -> web.Response:
        """Let a page of another origin send its token and its position."""
        check_origin(request, self._settings)
        return web.Response(
            status=204,
            headers={
                **HEADERS,
                hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: request.headers.get(hdrs.ORIGIN, ""),
                hdrs.VARY: hdrs.ORIGIN,
                hdrs.ACCESS_CONTROL_ALLOW_METHODS: hdrs.METH_GET,
                hdrs.ACCESS_CONTROL_ALLOW_HEADERS: "authorization, last-event-id",
                hdrs.ACCESS_CONTROL_MAX_AGE: str(PREFLIGHT_S),
            },
        )

    def _read_sse(self, request: web.BaseRequest, session: str) -> Wanted:
        # EventSource repeats the URL it was made with, so its own header is newer.
        last = request.headers.get("Last-Event-ID", "")
        newer = {"last_event_id": last} if last else {}
        return read_request(request, session, self._settings, newer)

    # Refusals.

    def refuse(self, request: web.BaseRequest, refusal: Refusal) -> web.StreamResponse:
        """By HTTP; pages are told by close codes and event streams what is for good."""
        if request.path.startswith("/v1/sse/"):
            answer = _refuse_event_source(refusal)
            if answer is not None:
                return answer
        elif refusal.reason in TERMINAL:
            accepted = self._refuse_browser(request, refusal)
            if accepted is not None:
                return accepted
        return error_response(refusal)

    def _refuse_browser(
        self, request: web.BaseRequest, refusal: Refusal
    ) -> web.StreamResponse | None:
        """Accept only to close with a code: a page cannot see a refusal's status."""
        offered = request.headers.getall(hdrs.SEC_WEBSOCKET_PROTOCOL, [])
        subprotocol, _token = websocket.choose_subprotocol(offered)
        if subprotocol is None:
            return None
        try:
            accept = check_upgrade(request)
        except Refusal:
            return None
        if not self._terminal.take(request.remote or ""):
            return None
        transport, _early = take_over(request)
        transport.write(switching(accept, subprotocol))
        asyncio.get_running_loop().call_later(
            random.uniform(*TERMINAL_DELAY_S),  # noqa: S311 - spreading load
            _close_terminally,
            transport,
            refusal,
        )
        return HANDED_OVER


def _cors(origin: str) -> bytes:
    # The origin has been checked; it is repeated only if it is plain.
    if not origin or not origin.isascii() or not origin.isprintable():
        return b""
    return b"Access-Control-Allow-Origin: %b\r\nVary: Origin\r\n" % origin.encode()


def _refuse_event_source(refusal: Refusal) -> web.Response | None:
    """EventSource gives up after any status but 200, and for good only after 204."""
    if refusal.temporary:
        delay = random.randint(*SSE_RETRY_MS)  # noqa: S311 - spreading load
        return web.Response(
            body=retry_block(delay),
            content_type="text/event-stream",
            headers=HEADERS,
        )
    if refusal.reason in TERMINAL:
        return web.Response(status=204, headers=HEADERS)
    return None


def _close_terminally(transport: asyncio.Transport, refusal: Refusal) -> None:
    if transport.is_closing():
        return
    reason = TERMINAL[refusal.reason]
    data = {"code": reason.code, "reason": reason.label, "retry": reason.retry}
    transport.write(
        NATIVE.notice("closing", data | dict(refusal.details)) + close_frame(reason)
    )
    transport.close()
