"""The admin server: health, readiness and metrics, for operators and Prometheus.

It answers from the supervisor's memory alone. It is meant for the pod's own network:
it asks for no credentials and tells no secrets.
"""

from __future__ import annotations

from typing import Protocol

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from broker.errors import ConfigError


class Status(Protocol):
    """What the admin server asks of the supervisor."""

    def health(self) -> dict[str, object]:
        """What a person wants to know about each process."""

    def not_ready(self) -> list[str]:
        """Why no new clients should come here; empty when they may."""

    def metrics(self) -> bytes:
        """The text of a scrape."""


class AdminServer:
    """Serves ``/healthz``, ``/readyz`` and ``/metrics`` over plain HTTP."""

    def __init__(self, status: Status, host: str, port: int) -> None:
        self._status = status
        self._host = host
        self._port = port
        self.app = web.Application()
        self.app.router.add_get("/healthz", self.handle_healthz)
        self.app.router.add_get("/readyz", self.handle_readyz)
        self.app.router.add_get("/metrics", self.handle_metrics)
        self._runner = web.AppRunner(self.app, access_log=None, handle_signals=False)

    async def start(self) -> int:
        """Listen, and return the port.

        Raises:
            ConfigError: The address cannot be used or is taken.
        """
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            raise ConfigError(
                f"BROKER_ADMIN_HOST={self._host} BROKER_ADMIN_PORT={self._port}"
                f" cannot be used: {error.strerror or error}"
            ) from error
        port: int = self._runner.addresses[0][1]
        return port

    async def close(self) -> None:
        """Stop listening and end what is being answered."""
        await self._runner.cleanup()

    async def handle_healthz(self, request: web.Request) -> web.Response:
        """200 for as long as the supervisor's loop turns."""
        del request
        return _json(200, self._status.health())

    async def handle_readyz(self, request: web.Request) -> web.Response:
        """200 while new clients may come, else 503 with the reasons."""
        del request
        reasons = self._status.not_ready()
        body = {"ready": not reasons, "reasons": reasons}
        return _json(503 if reasons else 200, body)

    async def handle_metrics(self, request: web.Request) -> web.Response:
        """All metrics in the text format of Prometheus."""
        del request
        # As `content_type=` aiohttp refuses it: it has parameters.
        headers = {"Content-Type": CONTENT_TYPE_LATEST}
        return web.Response(body=self._status.metrics(), headers=headers)


def _json(status: int, body: dict[str, object]) -> web.Response:
    return web.Response(
        status=status, body=orjson.dumps(body), content_type="application/json"
    )
