"""HAProxy as it is shipped, in front of three brokers."""

from __future__ import annotations

import asyncio
import signal
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker.store.embedded import EmbeddedServer, free_port
from tests.conftest import NewWatcher, StartBroker
from tests.harness import http, wire
from tests.harness.balancers import IDLE_S, HAProxy, Pods, visit
from tests.harness.certificates import Authority
from tests.harness.client import Address, WebSocketClient, request_head
from tests.harness.publisher import Author
from tests.harness.watcher import Watcher

REFUSED_AT_ONCE = 60
"""Three times as many as one address may have told by a close code."""


@pytest.fixture(scope="module")
def haproxy(pods: Pods) -> Iterator[HAProxy]:
    """It stands in front of them; silence may last five heartbeats."""
    with HAProxy(pods.addresses, pods.admin_port, IDLE_TIMEOUT=f"{IDLE_S}s") as proxy:
        yield proxy


async def test_heartbeats_keep_quiet_clients_connected(
    haproxy: HAProxy, watch: NewWatcher, author: Author, session: str
) -> None:
    """For longer than silence may last; events come when they are published."""
    websocket = await watch(haproxy, session).open()
    sse = await watch(haproxy, session, "sse").open()
    with pytest.raises(TimeoutError):
        await first_end([websocket, sse], 2.5 * IDLE_S)
    await author.publish(session)

    assert await websocket.next("tick")
    assert await sse.next("tick")


async def test_connection_without_heartbeats_is_cut(
    haproxy: HAProxy, start_broker: StartBroker, shared_redis: EmbeddedServer
) -> None:
    """So the test above has seen what it is meant to see."""
    silent = Pods(1, lambda **s: start_broker(shared_redis.url, **s), heartbeat_s=3600)
    with HAProxy(silent.addresses, silent.admin_port, IDLE_TIMEOUT="1s") as proxy:
        client = await WebSocketClient.connect(proxy.public, "/v1/ws/s1")
        assert (await client.wait_ended(20)).code is None


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Who has signed the certificate of HAProxy."""
    return Authority(tmp_path)


@pytest.fixture
def tls(pods: Pods, authority: Authority, tmp_path: Path) -> Iterator[Address]:
    """Where another HAProxy listens for TLS."""
    file, address = tmp_path / "tls.pem", ("127.0.0.1", free_port())
    file.write_bytes(b"".join(p.read_bytes() for p in authority.issue("haproxy")))
    listen = f"{address[0]}:{address[1]}"
    with HAProxy(
        pods.addresses, pods.admin_port, TLS_CERTIFICATE=file, TLS_LISTEN=listen
    ):
        yield address


async def test_clients_may_come_by_tls(
    tls: Address, authority: Authority, session: str
) -> None:
    """Where there is a certificate; also from a page of that host."""
    context = ssl.create_default_context(cafile=authority.path)
    page = [("Origin", f"https://{tls[0]}:{tls[1]}")]
    head = request_head(tls, f"/v1/ws/{session}", wire.new_key(), headers=page)
    reader, writer = await asyncio.open_connection(*tls, ssl=context)
    writer.write(head)
    answer = await reader.readuntil(b"\r\n")
    frame = await reader.readuntil(b"welcome")
    writer.close()
    await writer.wait_closed()

    assert answer.startswith(b"HTTP/1.1 101 ")
    assert frame


async def test_prefix_of_the_path_is_taken_off(
    haproxy: HAProxy, author: Author, session: str
) -> None:
    """And the query stays."""
    await author.publish(session)
    path = f"/realtime/v1/ws/{session}"
    client = await WebSocketClient.connect(haproxy.public, path, {"last_event_id": "0"})
    assert await client.until("tick")
    client.cut()


async def test_tokens_in_urls_are_not_logged(haproxy: HAProxy, session: str) -> None:
    """Neither those of clients that came in nor those of refused ones."""
    path = f"/v1/ws/{session}"
    client = await WebSocketClient.connect(haproxy.public, path, {"token": "canary-1"})
    await client.close()
    answer = await http.get(haproxy.public, f"/v1/no/{session}", {"token": "canary-2"})
    haproxy.wait_until(lambda: path in haproxy.log.text, "line of the first")
    haproxy.wait_until(lambda: "/v1/no/" in haproxy.log.text, "line of the second")

    assert answer.status == 404
    assert "canary" not in haproxy.log.text


async def test_each_client_has_limits_of_its_own(haproxy: HAProxy) -> None:
    """The brokers see where each comes from."""
    sources = [f"127.0.1.{n}" for n in range(1, 1 + 3 * REFUSED_AT_ONCE)]
    seen = await asyncio.gather(*(visit(haproxy.public, source) for source in sources))

    assert set(seen) == {101}


async def test_client_cannot_choose_its_address_itself(haproxy: HAProxy) -> None:
    """What it says stands left of what HAProxy says."""
    spoofed = [f"203.0.113.{n}" for n in range(3 * REFUSED_AT_ONCE)]
    seen = await asyncio.gather(
        *(visit(haproxy.public, "127.0.2.1", address) for address in spoofed)
    )
    assert Counter(seen)[403] > 0


async def test_page_of_the_same_host_may_come(haproxy: HAProxy, session: str) -> None:
    """The name that it used reaches the broker."""
    host, port = haproxy.public
    page = [("Origin", f"http://{host}:{port}")]
    client = await WebSocketClient.connect(
        haproxy.public, f"/v1/ws/{session}", subprotocols=(), headers=page
    )
    assert await client.until("subscribed")
    client.cut()


async def test_pod_that_leaves_gets_nobody_new_and_its_clients_resume_elsewhere(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    watch: NewWatcher,
    author: Author,
    new_session: Callable[[], str],
) -> None:
    """Its sockets stay until it closes them; then newcomers go to its successor."""
    pods = Pods(
        3, lambda **s: start_broker(shared_redis.url, **s), drain_delay_s=8, drain_s=1
    )
    with HAProxy(pods.addresses, pods.admin_port, SLOW_START="4s") as proxy:
        old = [await watch(proxy, new_session()).open() for _ in range(12)]
        assert proxy.sessions == [4, 4, 4]

        pods.brokers[0].signal(signal.SIGTERM)
        await asyncio.to_thread(
            proxy.wait_until, lambda: proxy.is_up == [False, True, True], "failed check"
        )
        new = [await watch(proxy, new_session()).open() for _ in range(4)]
        assert proxy.sessions == [4, 6, 6]
        for watcher in old:
            await author.publish(watcher.account.session)
            await watcher.next("tick")

        for _ in range(4):
            await first_end([watcher for watcher in old if not has_left(watcher)], 20)
        leaving = [watcher for watcher in old if has_left(watcher)]
        assert len(leaving) == 4
        for watcher in leaving:
            await author.publish(watcher.account.session)
            await watcher.open()
            await watcher.next("tick")
        assert proxy.sessions == [0, 8, 8]
        assert {w.told("subscribed")[-1]["resume"] for w in leaving} == {"complete"}

        assert await asyncio.to_thread(pods.brokers[0].wait) == 0
        await asyncio.to_thread(pods.replace, 0)
        await asyncio.to_thread(proxy.wait_until, lambda: all(proxy.is_up), "new pod")
        slow = proxy.weights
        await asyncio.to_thread(
            proxy.wait_until, lambda: len(set(proxy.weights)) == 1, "end of slow start"
        )
        new += [await watch(proxy, new_session()).open() for _ in range(8)]
        assert slow[0] < slow[1]
        assert proxy.sessions == [8, 8, 8]
        pods.leave()


async def first_end(watchers: list[Watcher], timeout_s: float) -> None:
    """Wait until the connection of one of them is gone."""
    ends = [watcher.socket.ended for watcher in watchers if watcher.socket]
    async with asyncio.timeout(timeout_s):
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)


def has_left(watcher: Watcher) -> bool:
    """Whether its connection is gone."""
    return watcher.socket is not None and watcher.socket.ended.done()
