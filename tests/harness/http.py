"""Plain requests to the broker's HTTP side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from tests.harness.client import Address


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return orjson.loads(self.body)


async def get(
    address: Address,
    path: str,
    query: Mapping[str, str | int] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """One GET on a connection of its own."""
    return await request("GET", address, path, query=query, headers=headers)


async def post(
    address: Address, path: str, body: object, headers: dict[str, str] | None = None
) -> Response:
    """One POST of JSON on a connection of its own."""
    return await request("POST", address, path, body=body, headers=headers)


async def request(
    method: str,
    address: Address,
    path: str,
    *,
    query: Mapping[str, str | int] | None = None,
    body: object = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """One request on a connection of its own."""
    timeout = aiohttp.ClientTimeout(total=10)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.request(
            method,
            f"http://{address[0]}:{address[1]}{path}",
            params=query,
            json=body,
            headers=headers,
        ) as response,
    ):
        names = {name.lower(): value for name, value in response.headers.items()}
        return Response(response.status, names, await response.read())
