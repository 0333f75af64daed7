"""The admin server with its API, on a real port and a real Redis."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest
from yarl import URL

from broker.config import load_settings
from broker.control.api_keys import new_key
from broker.control.authenticator import Authenticator
from broker.metrics.slots import Slots
from broker.store.connection import Connection
from broker.store.embedded import EmbeddedServer
from broker.store.presence import SCRIPTS as PRESENCE_SCRIPTS
from broker.store.scripts import load_scripts
from broker.store.sessions import SCRIPTS as SESSION_SCRIPTS
from broker.supervisor.admin import AdminServer
from broker.supervisor.api.server import Api
from tests.harness.http import Response


class Client:
    """Speaks to one admin server."""

    def __init__(self, port: int, http: aiohttp.ClientSession) -> None:
        self.port = port
        self._http = http

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str = "",
        **headers: str,
    ) -> Response:
        """One request; *body* is sent as JSON unless it is bytes."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            named["Authorization"] = f"Bearer {token}"
        text = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        data = None if text is None else io.BytesIO(text)
        url = URL(f"http://127.0.0.1:{self.port}{path}", encoded=True)
        async with self._http.request(method, url, data=data, headers=named) as answer:
            names = {name.lower(): value for name, value in answer.headers.items()}
            return Response(answer.status, names, await answer.read())


class PodStatus:
    """A pod about which there is nothing to say."""

    def health(self) -> dict[str, object]:
        return {}

    def not_started(self) -> list[str]:
        return []

    def not_live(self) -> list[str]:
        return []

    def not_ready(self) -> list[str]:
        return []

    def metrics(self) -> bytes:
        return b""


StartApi = Callable[..., Awaitable[Client]]


@asynccontextmanager
async def running_api(
    redis_url: str, *, connected: bool, **settings: object
) -> AsyncIterator[Client]:
    """Run an admin server; settings are those of the environment in lower case."""
    named = {"redis_url": redis_url, **settings}
    env = {f"BROKER_{name.upper()}": str(value) for name, value in named.items()}
    effective = load_settings(env, None)
    slots = Slots.create(1)
    values = slots.row(2)
    api = Api(effective, Authenticator(effective), "pod", values, lambda: 0)
    server = AdminServer(PodStatus(), "127.0.0.1", 0, api)
    port = await server.start()
    api.start()
    if connected:
        async with asyncio.timeout(10):
            await api._standing.wait_up()
            await api._archive._standing.wait_up()
    timeout = aiohttp.ClientTimeout(total=15)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as http:
            yield Client(port, http)
    finally:
        await server.close()
        await api.close()
        slots.close()
        os.close(slots.fd)


@pytest.fixture
async def start_api(shared_redis: EmbeddedServer) -> AsyncIterator[StartApi]:
    """Start admin servers on the shared Redis; they are connected when it returns."""
    async with AsyncExitStack() as stack:

        async def start(
            redis_url: str = shared_redis.url,
            connected: bool = True,
            **settings: object,
        ) -> Client:
            running = running_api(redis_url, connected=connected, **settings)
            return await stack.enter_async_context(running)

        yield start


@pytest.fixture
async def api(start_api: StartApi) -> Client:
    """An admin server as it is without settings: open to this machine."""
    return await start_api()


@pytest.fixture
async def store(shared_redis: EmbeddedServer) -> AsyncIterator[Connection]:
    """A connection that knows the scripts, to do what workers do."""
    connection = await Connection.open(shared_redis.url, client_name="tests")
    await load_scripts(connection, *SESSION_SCRIPTS, *PRESENCE_SCRIPTS)
    yield connection
    connection.close()


def keyring(**records: tuple[list[str], list[str]]) -> tuple[dict[str, str], str]:
    """Keys by user and the setting that knows them, of rights and sessions."""
    keys: dict[str, str] = {}
    known: list[dict[str, Any]] = []
    for user, (rights, sessions) in records.items():
        keys[user], record = new_key(user, rights, sessions, name=f"key-of-{user}")
        known.append(record)
    return keys, json.dumps(known)
