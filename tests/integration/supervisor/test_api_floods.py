"""What clients hold back, pile up or garble on the admin port harms nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.harness.client import Address
from tests.harness.servers import BrokerServer
from tests.integration.supervisor.conftest import Client, StartApi, keyring

LIST = "/v1/revocations"
SECRET = "an-operators-token"
EVENT = b'{"event":"e"}'
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
GARBLED = (
    b"POST %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    b"Content-Encoding: gzip\r\nContent-Length: 10\r\n\r\nno gzip at"
)


class Line:
    """A connection on which a test says and hears single bytes."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader = reader
        self.writer = writer

    async def head(self, text: bytes = b"") -> bytes:
        """Send *text*, then what comes back up to an empty line."""
        self.writer.write(text)
        async with asyncio.timeout(5):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def rest(self, within_s: float = 5) -> bytes:
        """What comes before the other side closes."""
        async with asyncio.timeout(within_s):
            return await self.reader.read()


@asynccontextmanager
async def line_to(host: str, port: int) -> AsyncIterator[Line]:
    """Open a connection."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield Line(reader, writer)
    finally:
        writer.close()


async def test_withheld_bodies_keep_nobody_out(
    start_api: StartApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may only publish cannot hold the place that an operator needs."""
    monkeypatch.setattr("broker.supervisor.api.gate.IN_FLIGHT_MAX", 1)
    keys, known = keyring(writer=(["publish"], ["*"]))
    api = await start_api(auth="api_key", api_keys=known, admin_token=SECRET)
    head = (
        "POST /v1/sessions/s/events HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {keys['writer']}\r\n"
        f"Expect: 100-continue\r\nContent-Length: {len(EVENT)}\r\n\r\n"
    )
    async with line_to("127.0.0.1", api.port) as line:
        awaited = await line.head(head.encode())
        answer = await api.ask("POST", LIST, {"user": "mallory"}, token=SECRET)
        published = await line.head(EVENT)

    assert b" 100 Continue" in awaited
    assert answer.status == 201
    assert b" 201 Created" in published


async def test_connections_are_bounded(
    api: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One too many is closed unanswered; a place that becomes free is used again."""
    monkeypatch.setattr("broker.supervisor.admin.CONNECTIONS_MAX", 2)
    async with line_to("127.0.0.1", api.port) as first:
        await first.head(HEALTH)
        async with line_to("127.0.0.1", api.port) as second:
            await second.head(HEALTH)
            async with line_to("127.0.0.1", api.port) as third:
                refused = await third.rest()
            second.writer.write(HEALTH.replace(b"Host", b"Connection: close\r\nHost"))
            await second.rest()
        async with line_to("127.0.0.1", api.port) as fourth:
            served = await fourth.head(HEALTH)

    assert refused == b""
    assert b" 200 OK" in served


@pytest.mark.parametrize("said", [b"", b"GET /healthz HTTP/1.1\r\nHost: loc"])
async def test_first_request_has_a_short_time(start_api: StartApi, said: bytes) -> None:
    """Silence is cut by the setting, not after the time between two requests."""
    api = await start_api(handshake_s=0.2)
    async with line_to("127.0.0.1", api.port) as line:
        line.writer.write(said)
        heard = await line.rest(within_s=3)

    assert heard == b""


async def test_next_request_has_longer(start_api: StartApi) -> None:
    """A connection that was used is kept for the next scrape."""
    api = await start_api(handshake_s=0.2)
    async with (
        line_to("127.0.0.1", api.port) as used,
        line_to("127.0.0.1", api.port) as silent,
    ):
        await used.head(HEALTH)
        await silent.rest(within_s=3)
        await used.reader.readexactly(2)  # {}
        again = await used.head(HEALTH)

    assert b" 200 OK" in again


@pytest.mark.parametrize("path", [b"/v1/revocations", b"/v1/nothing"])
@pytest.mark.parametrize("side", ["admin", "public"])
async def test_body_that_cannot_be_unpacked_is_no_error_of_ours(
    broker: BrokerServer, side: str, path: bytes
) -> None:
    """Bodies are not unpacked at all, so anybody's garbage is a plain refusal."""
    address: Address = getattr(broker, side)
    async with line_to(*address) as line:
        line.writer.write(GARBLED % path)
        answer = await line.rest()

    assert answer.startswith(b"HTTP/1.1 40")
    assert "Unhandled exception" not in broker.log.text


@pytest.mark.parametrize("path", ["/healthz", LIST, "/v1/nothing"])
async def test_unknown_expectation_is_refused_in_our_form(
    api: Client, path: str
) -> None:
    """Whatever is asked for, and though no handler is reached."""
    answer = await api.ask("GET", path, Expect="foo")

    assert answer.status == 417
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.headers["server"] == "broker"
    assert answer.json()["error"]["code"] == "expectation_failed"
