"""What every request of the server API passes: who asks, how much, what failed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import structlog
from aiohttp import hdrs, web

from broker.control.sessions import mend
from broker.errors import StoreRefused, StoreUnavailable
from broker.store.server import WRITES_REFUSED
from broker.store.standing import StandingConnection
from broker.supervisor.api.access import Access, Caller
from broker.supervisor.api.messages import Failure, Problem
from broker.supervisor.api.routes import JSON, Route
from broker.worker.handshake import Refusal

log = structlog.get_logger(__name__)

IN_FLIGHT_MAX = 64
"""Requests that are read and not answered yet."""
BODY_S = 5.0
"""Seconds in which the body of a request must have come."""
SMALL_BODY_BYTES = 64 * 1024
"""Bound of a body, and what the names around an event may take beside it."""

HEADERS = {hdrs.SERVER: "broker", hdrs.CACHE_CONTROL: "no-store"}
WORDS = {
    404: ("not_found", "there is nothing here"),
    405: ("method_not_allowed", "this path takes other methods"),
    408: ("timeout", "the body did not come in time"),
    413: ("too_large", "the body is too large"),
    417: ("expectation_failed", "nothing but 100-continue can be expected"),
}
"""Code and message by status, for what is refused without more words."""


class Call(msgspec.Struct, frozen=True):
    """A request that may be answered.

    Attributes:
        request: As it came.
        caller: Who asks.
        body: Of the type that the route takes; None if it takes none.
    """

    request: web.Request
    caller: Caller
    body: msgspec.Struct | None

    def part(self, name: str) -> str:
        """What stands in the path for ``{name}``, unescaped."""
        return self.request.match_info[name]


Answer = msgspec.Struct | web.Response | None
Handle = Callable[[Call], Awaitable[Answer]]
AiohttpHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gate:
    """Stands in front of the handlers of all routes that take a right."""

    def __init__(
        self, access: Access, standing: StandingConnection, max_event_bytes: int
    ) -> None:
        self._access = access
        self._standing = standing
        self._largest_body_bytes = max_event_bytes + SMALL_BODY_BYTES
        self._in_flight = 0

    def guard(self, route: Route, handle: Handle) -> AiohttpHandler:
        """A handler for aiohttp that lets only those in who may."""

        async def answer(request: web.Request) -> web.StreamResponse:
            self._access.check_origin(request)
            return await self._answer(route, handle, request)

        return answer

    async def _answer(
        self, route: Route, handle: Handle, request: web.Request
    ) -> web.Response:
        # In this order: who may not ask cannot make us read a body.
        caller = await self._access.identify(request)
        caller.check(route.need, request.match_info.get("session", ""))
        body = await self._read(route, request)
        done = await self._handle(handle, Call(request, caller, body))
        if route.method != hdrs.METH_GET and route.need == "admin":
            target = dict(request.match_info)
            log.info("api_done", operation=route.name, by=caller.name, target=target)
        return done if isinstance(done, web.Response) else _encode(route, done)

    async def _handle(self, handle: Handle, call: Call) -> Answer:
        # Only now: whoever withholds a body must not keep others out.
        if self._in_flight >= IN_FLIGHT_MAX:
            raise Refusal("overloaded", "too many requests at once")
        self._in_flight += 1
        try:
            return await handle(call)
        except StoreRefused as error:
            raise mend(self._standing, error) from error
        finally:
            self._in_flight -= 1

    async def _read(self, route: Route, request: web.Request) -> msgspec.Struct | None:
        if route.takes is None:
            return None
        is_event = route.need == "publish"
        limit = self._largest_body_bytes if is_event else SMALL_BODY_BYTES
        text = await _read_body(request, limit)
        try:
            return msgspec.json.decode(text, type=route.takes)
        except msgspec.DecodeError as error:
            raise Refusal("bad_request", f"the body cannot be used: {error}") from None
        except RecursionError:
            raise Refusal("bad_request", "the body is nested too deeply") from None
        except UnicodeDecodeError:
            raise Refusal("bad_request", "the body is not UTF-8") from None


async def _read_body(request: web.Request, limit: int) -> bytes:
    received = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.content.iter_any():
                received += part
                if len(received) > limit:
                    raise web.HTTPRequestEntityTooLarge(limit, len(received))
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    except web.RequestPayloadError:
        raise Refusal("bad_request", "the body cannot be read") from None
    return bytes(received)


def _encode(route: Route, body: msgspec.Struct | None) -> web.Response:
    if body is None:
        return web.Response(status=route.status, headers=HEADERS)
    text = msgspec.json.encode(body)
    return web.Response(
        status=route.status, body=text, content_type=JSON, headers=HEADERS
    )


@web.middleware
async def tell_failures(
    request: web.Request, handler: AiohttpHandler
) -> web.StreamResponse:
    """Answer what a handler raises with a status and a body of our own."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return _refuse(refusal)
    except web.HTTPException as error:
        if error.status not in WORDS:
            raise
        return reword(error)
    except StoreUnavailable:
        return _refuse(Refusal("unavailable"))
    except StoreRefused as error:
        log.warning("api_refused_by_store", kind=error.kind)
        if error.kind in WRITES_REFUSED:
            return _refuse(Refusal("unavailable"))
        why = f"Redis refused it: {error.kind}"
        return _refuse(Refusal("store_refused", why, status=502))


def reword(error: web.HTTPException) -> web.Response:
    """The answer of our own in place of aiohttp's, for a status of ``WORDS``."""
    code, message = WORDS[error.status]
    answer = _refuse(Refusal(code, message, status=error.status))
    if hdrs.ALLOW in error.headers:
        answer.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
    return answer


def _refuse(refusal: Refusal) -> web.Response:
    body = Failure(Problem(refusal.reason, refusal.message))
    if refusal.status == 401:
        refusal.headers.setdefault(hdrs.WWW_AUTHENTICATE, "Bearer")
    return web.Response(
        status=refusal.status,
        body=msgspec.json.encode(body),
        content_type=JSON,
        headers=HEADERS | refusal.headers,
    )
