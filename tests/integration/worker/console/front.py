"""A console by itself, behind a server that answers as the worker's does."""

from __future__ import annotations

import asyncio
import socket

import aiohttp
import orjson
from aiohttp import web
from yarl import URL

from broker.config import Settings, load_settings
from broker.control.authenticator import Authenticator
from broker.control.identity import Identity, Unauthorized, everybody
from broker.store.connection import Command, Connection
from broker.worker.console import Console
from broker.worker.handshake import Refusal
from tests.harness.client import Address
from tests.harness.http import Response, request

MAX_EVENT_BYTES = 2048


class Door:
    """Knows tokens as a worker does."""

    def __init__(self, settings: Settings) -> None:
        self._authenticator = Authenticator(settings)
        self._is_open = settings.auth == "none"

    async def identify(self, token: str | None, user: str) -> Identity:
        if self._is_open:
            return everybody(user)
        if token is None:
            raise Refusal("unauthorized")
        try:
            return await self._authenticator.identify(token)
        except Unauthorized as error:
            raise Refusal(error.code) from None


class Front:
    """A console behind a server that answers refusals as the worker's does."""

    def __init__(self, connection: Connection, **given: str) -> None:
        named = {f"BROKER_{name.upper()}": value for name, value in given.items()}
        named["BROKER_MAX_EVENT_BYTES"] = str(MAX_EVENT_BYTES)
        settings = load_settings(named, env_file=None)
        self._connection = connection
        self.console = Console(settings, Door(settings), self.add, "demo")
        self.address: Address = ("", 0)
        self._runner = web.ServerRunner(web.Server(self._answer))

    async def add(self, command: Command) -> str:
        added: bytes = await self._connection.call(*command)
        return added.decode()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        assert request.path.startswith("/console")
        try:
            return await self.console.handle(request, request.path.split("/")[2:])
        except Refusal as refusal:
            body = {"code": refusal.reason, "message": refusal.message}
            return web.Response(
                status=refusal.status,
                body=orjson.dumps({"error": body}),
                content_type="application/json",
                headers=refusal.headers,
            )

    async def start(self) -> None:
        await self._runner.setup()
        listening = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(self._runner, listening).start()
        self.address = listening.getsockname()

    async def stop(self) -> None:
        await self._runner.cleanup()

    @property
    def origin(self) -> str:
        return f"http://{self.address[0]}:{self.address[1]}"

    async def get(self, path: str, **headers: str) -> Response:
        """One GET whose path is sent as it stands; redirects are answers."""
        url = URL(self.origin + path, encoded=True)
        async with (
            aiohttp.ClientSession() as session,
            session.get(url, headers=headers, allow_redirects=False) as response,
        ):
            names = {name.lower(): value for name, value in response.headers.items()}
            return Response(response.status, names, await response.read())

    async def publish(
        self, body: object, headers: dict[str, str] | None = None
    ) -> Response:
        path = "/console/publish"
        return await request("POST", self.address, path, body=body, headers=headers)

    async def post(self, body: bytes, headers: dict[str, str], size: int) -> bytes:
        """Publish *body*, said to have *size* bytes; the head of the answer."""
        lines = {
            "Host": "localhost",
            "Content-Type": "application/json",
            "Content-Length": str(size),
        }
        head = "".join(f"{k}: {v}\r\n" for k, v in (lines | headers).items())
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            writer.write(f"POST /console/publish HTTP/1.1\r\n{head}\r\n".encode())
            writer.write(body)
            return await reader.readuntil(b"\r\n\r\n")
        finally:
            writer.transport.abort()
