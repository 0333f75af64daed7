"""The admin server: health, readiness and metrics, and the server API beside them.

Health and metrics are answered from the supervisor's memory alone, whatever becomes of
the API. They are meant for the pod's own network: they ask for no credentials and tell
no secrets. Who may use the API is for `broker.supervisor.api.access` to say.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol, cast

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from broker.errors import ConfigError
from broker.supervisor.api.gate import reword, tell_failures
from broker.supervisor.api.openapi import document
from broker.supervisor.api.routes import JSON, ROUTES
from broker.supervisor.api.server import Api
from broker.worker.server import Handler

CONNECTIONS_MAX = 256
"""Open at once: descriptors must be left to start a process with."""
HANDSHAKE_S = 10.0
"""What a client has for its first request, where no settings say so."""
KEEPALIVE_S = 75.0
LINGER_S = 1.0
"""How long the rest of a body is taken that is not wanted: a client writes it first."""
CLOSE_S = 1.0
"""How long requests under way may take once the pod is closing."""


class Status(Protocol):
    """What the admin server asks of the supervisor."""

    def health(self) -> dict[str, object]:
        """What a person wants to know about each process."""

    def not_started(self) -> list[str]:
        """What is still waited for; empty for ever once the pod was ready."""

    def not_live(self) -> list[str]:
        """Why only a new pod can help; empty while restarting it would not."""

    def not_ready(self) -> list[str]:
        """Why no new clients should come here; empty when they may."""

    def metrics(self) -> bytes:
        """The text of a scrape."""


class AdminServer:
    """Serves ``/healthz`` and its like, ``/metrics`` and the API over plain HTTP.

    Args:
        status: What to say about the pod.
        host: Address to listen on.
        port: Port to listen on, 0 for a free one.
        api: Without it nothing but health and metrics is served.
    """

    def __init__(
        self, status: Status, host: str, port: int, api: Api | None = None
    ) -> None:
        self._status = status
        self._host = host
        self._port = port
        self.app = web.Application(middlewares=[tell_failures])
        self._add_routes(api)
        self._runner = web.AppRunner(
            self.app, access_log=None, handle_signals=False, shutdown_timeout=CLOSE_S
        )
        self._listening: asyncio.Server | None = None
        self._handshake_s = HANDSHAKE_S if api is None else api.handshake_s

    def _add_routes(self, api: Api | None) -> None:
        own = {
            "healthz": self.handle_healthz,
            "startupz": self.handle_startupz,
            "livez": self.handle_livez,
            "readyz": self.handle_readyz,
            "metrics": self.handle_metrics,
        }
        if api is not None:
            self._document = orjson.dumps(document())
            own["openapi"] = self.handle_openapi
        for route in ROUTES:
            if route.name in own:
                self.app.router.add_get(route.path, own[route.name])
            elif api is not None:
                # A name may have braces in it, which aiohttp leaves out otherwise.
                path = route.path.replace("}", ":[^/]+}")
                handler = cast("Any", api.handler(route))
                self.app.router.add_route(route.method, path, handler)

    async def start(self) -> int:
        """Listen, and return the port.

        Raises:
            ConfigError: The address cannot be used or is taken.
        """
        await self._runner.setup()
        try:
            self._listening = await asyncio.get_running_loop().create_server(
                self._protocol, self._host, self._port, reuse_address=True
            )
        except OSError as error:
            raise ConfigError(
                f"BROKER_ADMIN_HOST={self._host} BROKER_ADMIN_PORT={self._port}"
                f" cannot be used: {error.strerror or error}"
            ) from error
        port: int = self._listening.sockets[0].getsockname()[1]
        return port

    def _protocol(self) -> asyncio.Protocol:
        server = cast("web.Server", self._runner.server)
        return _Protocol(server, self._handshake_s)

    async def close(self) -> None:
        """Stop listening and end what is being answered."""
        if self._listening is not None:
            self._listening.close()
        await self._runner.cleanup()

    async def handle_healthz(self, request: web.Request) -> web.Response:
        """200 for as long as the supervisor's loop turns."""
        del request
        return _json(200, self._status.health())

    async def handle_startupz(self, request: web.Request) -> web.Response:
        """200 once the pod was ready, else 503 with what is still missing."""
        del request
        return _verdict("started", self._status.not_started())

    async def handle_livez(self, request: web.Request) -> web.Response:
        """503 with the reasons if a new pod would do better, else 200."""
        del request
        return _verdict("live", self._status.not_live())

    async def handle_readyz(self, request: web.Request) -> web.Response:
        """200 while new clients may come, else 503 with the reasons."""
        del request
        return _verdict("ready", self._status.not_ready())

    async def handle_metrics(self, request: web.Request) -> web.Response:
        """All metrics in the text format of Prometheus."""
        del request
        # As `content_type=` aiohttp refuses it: it has parameters.
        headers = {"Content-Type": CONTENT_TYPE_LATEST}
        return web.Response(body=self._status.metrics(), headers=headers)

    async def handle_openapi(self, request: web.Request) -> web.Response:
        """What can be asked here, for programs that make clients of it."""
        del request
        return web.Response(body=self._document, content_type=JSON)


class _Protocol(Handler):
    """aiohttp's protocol with bounds, whose answers have the form of all others.

    Args:
        server: Knows the open connections.
        handshake_s: Seconds until the head of the first request must be there.
    """

    def __init__(self, server: web.Server, handshake_s: float) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=cast("Any", None),
            keepalive_timeout=KEEPALIVE_S,
            lingering_time=LINGER_S,
            auto_decompress=False,  # what cannot be unpacked would be an error of ours
        )
        self._server = server
        self._handshake_s = handshake_s
        self._handshake: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Serve it, unless there are too many."""
        if len(self._server.connections) >= CONNECTIONS_MAX:
            cast("asyncio.Transport", transport).abort()
            return
        super().connection_made(transport)
        loop = asyncio.get_running_loop()
        self._handshake = loop.call_later(self._handshake_s, self._cut_silent)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget it."""
        if self._handshake is not None:
            self._handshake.cancel()
        super().connection_lost(exc)

    def _cut_silent(self) -> None:
        if self._request_count == 0:
            self.force_close()

    async def finish_response(
        self,
        request: web.BaseRequest,
        resp: web.StreamResponse,
        start_time: float | None,
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer; what is refused before any middleware runs is reworded."""
        if isinstance(resp, web.HTTPExpectationFailed):
            resp = reword(resp)
        return await super().finish_response(request, resp, start_time)


def _verdict(word: str, reasons: list[str]) -> web.Response:
    return _json(503 if reasons else 200, {word: not reasons, "reasons": reasons})


def _json(status: int, body: dict[str, object]) -> web.Response:
    return web.Response(
        status=status, body=orjson.dumps(body), content_type="application/json"
    )
