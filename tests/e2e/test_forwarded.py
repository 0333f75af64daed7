"""Behind a proxy: whose word counts for who a client is."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from broker.store.embedded import EmbeddedServer
from tests.conftest import StartBroker
from tests.harness.client import Refused, WebSocketClient
from tests.harness.servers import BrokerServer

REFUSED_AT_ONCE = 60
"""Three times as many as one address may have told by a close code."""


async def visit(broker: BrokerServer, *headers: tuple[str, str]) -> int:
    """Come from a page of another site; the status of the answer."""
    foreign = ("Origin", "https://evil.example")
    try:
        client = await WebSocketClient.connect(
            broker.public, "/v1/ws/s1", headers=[foreign, *headers]
        )
    except Refused as refused:
        return refused.status
    client.cut()
    return 101


async def visits(broker: BrokerServer, addresses: list[str]) -> Counter[int]:
    """The same for many at once, each said to come from one address."""
    heads = [("X-Forwarded-For", address) for address in addresses]
    return Counter(await asyncio.gather(*(visit(broker, head) for head in heads)))


@pytest.fixture
def addresses() -> list[str]:
    """As many addresses as clients."""
    return [f"203.0.113.{number}" for number in range(REFUSED_AT_ONCE)]


async def test_each_client_of_a_trusted_proxy_has_limits_of_its_own(
    start_broker: StartBroker, shared_redis: EmbeddedServer, addresses: list[str]
) -> None:
    """One that is refused too often does not use up what others may."""
    broker = start_broker(
        shared_redis.url, workers=1, trusted_proxies="192.0.2.0/24,127.0.0.1"
    )
    one = await visits(broker, ["198.51.100.9"] * REFUSED_AT_ONCE)
    many = await visits(broker, addresses)

    assert one[403] > 0
    assert many == {101: REFUSED_AT_ONCE}


async def test_client_cannot_choose_its_address_itself(
    start_broker: StartBroker, shared_redis: EmbeddedServer, addresses: list[str]
) -> None:
    """Where nobody is trusted all of them are the one that they are."""
    broker = start_broker(shared_redis.url, workers=1)
    assert (await visits(broker, addresses))[403] > 0


@pytest.mark.parametrize(
    ("proxies", "status"), [("127.0.0.1", 101), ("192.0.2.1", 403)]
)
async def test_page_may_come_by_the_name_that_a_trusted_proxy_tells(
    start_broker: StartBroker, shared_redis: EmbeddedServer, proxies: str, status: int
) -> None:
    """A proxy that changes Host would else lock its own pages out."""
    broker = start_broker(
        shared_redis.url, trusted_proxies=proxies, allow_insecure="true"
    )
    page = [("Origin", "https://app.example"), ("X-Forwarded-Host", "app.example")]
    seen = 101
    try:
        # Without our subprotocol it is no page of ours: it is told by HTTP.
        client = await WebSocketClient.connect(
            broker.public, "/v1/ws/s1", subprotocols=(), headers=page
        )
        client.cut()
    except Refused as refused:
        seen = refused.status
    assert seen == status


@pytest.mark.parametrize(
    ("host", "status"),
    [(b"app.example", b"101"), (b"[::1", b"403"), (b"a]b", b"403")],
)
async def test_what_no_proxy_has_put_in_order_is_no_fault_of_ours(
    start_broker: StartBroker, shared_redis: EmbeddedServer, host: bytes, status: bytes
) -> None:
    """Cookies hold bytes of any kind, and a name of a host may be none."""
    strict = {b"101": "true"}.get(status, "false")
    broker = start_broker(
        shared_redis.url, trusted_proxies="127.0.0.1", allow_insecure=strict
    )
    reader, writer = await asyncio.open_connection(*broker.public)
    writer.write(
        b"GET /v1/ws/s1 HTTP/1.1\r\nHost: %b\r\nX-Forwarded-Host: %b\r\n"
        b"Cookie: n=S\xe3o\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"\r\n" % (host, host)
    )
    async with asyncio.timeout(10):
        line = await reader.readline()
    writer.transport.abort()

    assert line.split()[1] == status
    broker.check_log()
