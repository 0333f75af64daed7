"""``/console``: the page, where the settings ask for it."""

from __future__ import annotations

from aiohttp import web

from broker.worker.console import Console
from broker.worker.edges.edge import error_response
from broker.worker.edges.parts import Parts
from broker.worker.handshake import Refusal


class ConsoleEdge:
    """A person with a browser."""

    def __init__(self, parts: Parts) -> None:
        settings = parts.settings
        self._console = Console(
            settings, parts.doorway.host, parts.plane.add, settings.console_session
        )

    async def handle(
        self, request: web.BaseRequest, path: list[str]
    ) -> web.StreamResponse:
        """Answer a request below ``/console``.

        Raises:
            Refusal: It cannot be done.
        """
        return await self._console.handle(request, path[1:])

    def refuse(self, request: web.BaseRequest, refusal: Refusal) -> web.StreamResponse:
        """As JSON."""
        return error_response(refusal)
