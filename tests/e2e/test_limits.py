"""Too much is refused before the upgrade, with a hint when to come again."""

from __future__ import annotations

import asyncio

import pytest

from broker.store.embedded import EmbeddedServer
from tests.conftest import NewWatcher, StartBroker
from tests.harness.client import Refused, WebSocketClient
from tests.harness.publisher import Author
from tests.harness.servers import BrokerServer


async def refusal(broker: BrokerServer, session: str, **query: str | int) -> Refused:
    """Connect, which must be refused."""
    with pytest.raises(Refused) as refused:
        await WebSocketClient.connect(broker.public, f"/v1/ws/{session}", dict(query))
    return refused.value


def assert_temporary(refused: Refused) -> None:
    assert refused.status in (429, 503)
    assert float(refused.headers["retry-after"]) > 0
    assert refused.headers["content-type"].startswith("application/json")
    assert isinstance(refused.json(), dict)


async def test_connections_of_a_worker_are_limited(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    watch: NewWatcher,
    author: Author,
    session: str,
) -> None:
    """One more is refused; those that are there are not disturbed."""
    broker = start_broker(shared_redis.url, workers=1, max_connections=5)
    watchers = [await watch(broker, session).open() for _ in range(5)]
    refused = await refusal(broker, session)
    await author.publish(session, 10)
    for watcher in watchers:
        await watcher.next("tick")
    await watchers[0].leave()
    replacement = await watch(broker, session).open()

    assert refused.status == 503
    assert_temporary(refused)
    assert replacement.told("welcome")


async def test_connections_of_a_user_are_limited(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    watch: NewWatcher,
    session: str,
) -> None:
    """One user cannot take the places of the others."""
    broker = start_broker(shared_redis.url, workers=1, max_connections_per_user=2)
    for _ in range(2):
        await watch(broker, session).open({"user": "alice"})
    refused = await refusal(broker, session, user="alice")
    other = await watch(broker, session).open({"user": "bob"})

    assert refused.status == 429
    assert_temporary(refused)
    assert other.told("welcome")[0]["user"] == "bob"


async def test_connections_to_a_session_are_limited(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    watch: NewWatcher,
    session: str,
) -> None:
    """A session that is too popular is refused, another is not."""
    broker = start_broker(shared_redis.url, workers=1, max_connections_per_session=2)
    for _ in range(2):
        await watch(broker, session).open()
    refused = await refusal(broker, session)
    await watch(broker, f"{session}.other").open()

    assert_temporary(refused)


async def test_accept_rate_is_limited(
    start_broker: StartBroker, shared_redis: EmbeddedServer, session: str
) -> None:
    """A storm gets refusals, and a second later there is room again."""
    broker = start_broker(shared_redis.url, workers=1, accept_rate_per_s=10)
    results = await asyncio.gather(
        *(
            WebSocketClient.connect(broker.public, f"/v1/ws/{session}")
            for _ in range(60)
        ),
        return_exceptions=True,
    )
    refused = [result for result in results if isinstance(result, Refused)]
    accepted = [result for result in results if isinstance(result, WebSocketClient)]
    await asyncio.sleep(1.5)
    late = await WebSocketClient.connect(broker.public, f"/v1/ws/{session}")
    for client in (*accepted, late):
        client.cut()

    assert len(refused) + len(accepted) == 60
    assert 5 <= len(accepted) <= 40
    for one in refused:
        assert_temporary(one)


async def test_subscriptions_of_a_worker_are_limited(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    watch: NewWatcher,
    session: str,
) -> None:
    """A path subscription over the worker's limit is refused before the upgrade."""
    broker = start_broker(shared_redis.url, workers=1, max_subscriptions=3)
    for i in range(3):
        await watch(broker, f"{session}.{i}").open()

    assert_temporary(await refusal(broker, session))


async def test_foreign_origin_is_refused(broker: BrokerServer, session: str) -> None:
    """A browser page of another host may not read; the own host may."""
    host = f"http://{broker.public[0]}:{broker.public[1]}"
    with pytest.raises(Refused) as refused:
        await WebSocketClient.connect(
            broker.public,
            f"/v1/ws/{session}",
            headers=[("Origin", "https://evil.example")],
            subprotocols=(),
        )
    own = await WebSocketClient.connect(
        broker.public, f"/v1/ws/{session}", headers=[("Origin", host)]
    )
    own.cut()

    assert refused.value.status == 403
    assert isinstance(refused.value.json(), dict)


async def test_allowed_origins_are_accepted(
    start_broker: StartBroker, shared_redis: EmbeddedServer, session: str
) -> None:
    """The setting lists who may come."""
    broker = start_broker(shared_redis.url, origins="https://app.example")
    client = await WebSocketClient.connect(
        broker.public,
        f"/v1/ws/{session}",
        headers=[("Origin", "https://app.example")],
    )
    client.cut()
