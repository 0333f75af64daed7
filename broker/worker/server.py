"""The public HTTP server of one worker: aiohttp's parser, and who answers what."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import structlog
from aiohttp import web

from broker.config import Settings
from broker.metrics import catalog
from broker.metrics.slots import Row
from broker.worker.doorway import HANDED_OVER, has_left
from broker.worker.edges.edge import NOWHERE, Edge, error_response
from broker.worker.forwarded import Forwarded
from broker.worker.handshake import Refusal

log = structlog.get_logger(__name__)


class Server:
    """Gives each request to the edge that its path belongs to.

    Args:
        settings: The effective settings.
        values: The process's metric row.
        edges: By the first segment of the path.
    """

    def __init__(
        self, settings: Settings, values: Row, edges: Mapping[str, Edge]
    ) -> None:
        self._handshake_s = settings.handshake_s
        self._values = values
        self._edges = edges
        self._forwarded = Forwarded(settings)
        self._manager = web.Server(self._handle)

    def protocol(self) -> asyncio.Protocol:
        """The protocol of an accepted socket: aiohttp's, until it is handed over."""
        return Handler(
            self._manager,
            loop=asyncio.get_running_loop(),
            access_log=cast("Any", None),
            # A request that is not complete by then is cut.
            keepalive_timeout=self._handshake_s,
            tcp_keepalive=False,
            auto_decompress=False,  # what cannot be unpacked would be an error of ours
        )

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        request = self._forwarded.see_through(request)
        path = request.path.split("/")[1:] or [""]  # OPTIONS asks for "*".
        edge = self._edges.get(path[0], NOWHERE)
        try:
            return await edge.handle(request, path)
        except Refusal as refusal:
            if has_left(request):
                return HANDED_OVER
            self._values[catalog.REFUSED.slots[refusal.reason]] += 1
            return edge.refuse(request, refusal)


class Handler(web.RequestHandler):
    """aiohttp's protocol, with answers to malformed requests that repeat nothing."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer with a fixed text: aiohttp's own quotes the request, with tokens."""
        if status >= 500:
            log.error("request_failed", status=status, error=type(exc).__name__)
        response = error_response(
            Refusal("bad_request" if status < 500 else "internal", status=status)
        )
        response.force_close()
        return response
