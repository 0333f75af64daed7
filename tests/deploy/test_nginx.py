"""nginx as it is shipped, in front of three brokers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from broker.store.embedded import EmbeddedServer
from tests.conftest import NewWatcher, StartBroker
from tests.harness import http
from tests.harness.balancers import IDLE_S, Nginx, Pods, visit
from tests.harness.client import WebSocketClient
from tests.harness.publisher import Author

REFUSED_AT_ONCE = 60
"""Three times as many as one address may have told by a close code."""


@pytest.fixture(scope="module")
def nginx(pods: Pods, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """It stands in front of them; silence may last five heartbeats."""
    directory = tmp_path_factory.mktemp("nginx")
    with Nginx(pods.addresses, directory, IDLE_S) as proxy:
        yield proxy


async def test_heartbeats_keep_quiet_clients_connected(
    nginx: Nginx, watch: NewWatcher, author: Author, session: str
) -> None:
    """For longer than silence may last; events come when they are published."""
    websocket = await watch(nginx, session).open()
    sse = await watch(nginx, session, "sse").open()
    with pytest.raises(TimeoutError):
        await websocket.ended(2.5 * IDLE_S)
    await author.publish(session)

    assert await websocket.next("tick")
    assert await sse.next("tick")


async def test_connection_without_heartbeats_is_cut(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """So the test above has seen what it is meant to see."""
    silent = Pods(1, lambda **s: start_broker(shared_redis.url, **s), heartbeat_s=3600)
    with Nginx(silent.addresses, tmp_path_factory.mktemp("nginx"), 1) as proxy:
        client = await WebSocketClient.connect(proxy.public, "/v1/ws/s1")
        assert (await client.wait_ended(20)).code is None


async def test_prefix_of_the_path_is_taken_off(
    nginx: Nginx, author: Author, session: str
) -> None:
    """And the query stays."""
    await author.publish(session)
    path = f"/realtime/v1/ws/{session}"
    client = await WebSocketClient.connect(nginx.public, path, {"last_event_id": "0"})
    assert await client.until("tick")
    client.cut()


async def test_each_client_has_limits_of_its_own(nginx: Nginx) -> None:
    """The brokers see where each comes from."""
    sources = [f"127.0.1.{n}" for n in range(1, 1 + 3 * REFUSED_AT_ONCE)]
    seen = await asyncio.gather(*(visit(nginx.public, source) for source in sources))

    assert set(seen) == {101}


async def test_client_cannot_choose_its_address_itself(nginx: Nginx) -> None:
    """What it says stands left of what nginx says."""
    spoofed = [f"203.0.113.{n}" for n in range(3 * REFUSED_AT_ONCE)]
    seen = await asyncio.gather(
        *(visit(nginx.public, "127.0.2.1", address) for address in spoofed)
    )
    assert Counter(seen)[403] > 0


async def test_page_of_the_same_host_may_come(nginx: Nginx, session: str) -> None:
    """The name that it used reaches the broker."""
    host, port = nginx.public
    page = [("Origin", f"http://{host}:{port}")]
    client = await WebSocketClient.connect(
        nginx.public, f"/v1/ws/{session}", subprotocols=(), headers=page
    )
    assert await client.until("subscribed")
    client.cut()


async def test_pod_that_is_gone_is_passed_by(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    watch: NewWatcher,
    author: Author,
    new_session: Callable[[], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Its clients resume elsewhere, and nobody new meets an error."""
    pods = Pods(3, lambda **s: start_broker(shared_redis.url, **s), drain_s=1)
    with Nginx(pods.addresses, tmp_path_factory.mktemp("nginx")) as proxy:
        old = [await watch(proxy, new_session()).open() for _ in range(9)]
        await asyncio.to_thread(pods.brokers[0].stop)
        left = [watcher for watcher in old if watcher.websocket.ended.done()]
        for watcher in left:
            await author.publish(watcher.account.session)
            await watcher.open()
            await watcher.next("tick")
        for _ in range(9):
            await watch(proxy, new_session()).open()

        assert len(left) == 3
        assert {w.told("subscribed")[-1]["resume"] for w in left} == {"complete"}
        pods.leave()


async def test_tokens_in_urls_are_not_logged(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    session: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Neither when a client comes in nor when there is no pod for it any more."""
    pods = Pods(
        1, lambda **s: start_broker(shared_redis.url, **s), token_in_query="true"
    )
    with Nginx(pods.addresses, tmp_path_factory.mktemp("nginx")) as proxy:
        path = f"/v1/ws/{session}"
        client = await WebSocketClient.connect(
            proxy.public, path, {"token": "canary-1"}
        )
        await client.close()
        await asyncio.to_thread(pods.brokers[0].stop)
        answer = await http.get(proxy.public, "/v1/later", {"token": "canary-2"})
        proxy.wait_until(lambda: path in proxy.log.text, "line of the first")
        proxy.wait_until(lambda: "/v1/later" in proxy.log.text, "line of the second")

        assert answer.status == 502
        assert "canary" not in proxy.log.text
