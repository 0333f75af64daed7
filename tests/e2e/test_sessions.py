"""How many sessions a user may have, and what the others learn of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from broker.store.embedded import EmbeddedServer
from tests.conftest import RedisAt, StartBroker, StartRedis
from tests.harness import lifecycle
from tests.harness.client import Refused, WebSocketClient
from tests.harness.servers import BrokerServer
from tests.harness.sse import SseClient
from tests.harness.tokens import SECRET, bearer, token

LIMIT = 2
LEASE_S = 2


@pytest.fixture(scope="module")
def limited_broker(
    shared_redis: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerServer]:
    """A broker where a user may have two sessions, for all tests of this file."""
    settings: dict[str, object] = {
        "max_sessions_per_user": LIMIT,
        "session_lease_s": LEASE_S,
        "session_linger_s": 0.5,
    }
    directory = tmp_path_factory.mktemp("broker")
    server = BrokerServer(shared_redis.url, directory, settings).start()
    yield server
    server.stop()


@pytest.fixture
def limited(limited_broker: BrokerServer) -> Iterator[BrokerServer]:
    """The same; the test fails if it makes the broker log an error."""
    yield limited_broker
    limited_broker.check_log()


@pytest.fixture
def user(session: str) -> str:
    """A user of the test's own, with characters that keys must survive."""
    return f"u}}{{/{session}"


async def enter(
    server: BrokerServer, session: str, user: str, **query: str
) -> WebSocketClient:
    client = await WebSocketClient.connect(
        server.public, f"/v1/ws/{session}", {"user": user, **query}
    )
    await client.until("subscribed")
    return client


async def test_one_session_too_many_evicts_the_oldest(
    limited: BrokerServer, new_session: Callable[[], str], user: str, redis: Redis
) -> None:
    """Its client is told by which session, with the code that says: stay away."""
    sessions = [new_session() for _ in range(LIMIT + 1)]
    clients = [await enter(limited, name, user) for name in sessions]
    closing = await clients[0].until("closing")
    ended = await clients[0].wait_ended()
    evicted = await lifecycle.until(redis, user, "session_evicted")
    clients[1].send({"cmd": "ping"})
    await clients[1].until("pong")

    assert closing["data"] == {
        "code": 4509,
        "reason": "session_evicted",
        "retry": False,
        "replaced_by": sessions[-1],
    }
    assert ended.code == 4509
    assert evicted["session"] == sessions[0]
    assert evicted["data"]["replaced_by"] == sessions[-1]
    for client in clients[1:]:
        client.cut()


async def test_an_evicted_client_that_comes_back_is_refused_for_good(
    limited: BrokerServer, new_session: Callable[[], str], user: str
) -> None:
    """So two devices do not take turns; only a deliberate act opens it again."""
    sessions = [new_session() for _ in range(LIMIT + 1)]
    clients = [await enter(limited, name, user) for name in sessions]
    await clients[0].wait_ended()
    with pytest.raises(Refused) as refused:
        await WebSocketClient.connect(
            limited.public,
            f"/v1/ws/{sessions[0]}",
            {"user": user},
            subprotocols=(),
        )
    page = await WebSocketClient.connect(
        limited.public, f"/v1/ws/{sessions[0]}", {"user": user}
    )
    told = await page.until("closing")
    again = await enter(limited, sessions[0], user, takeover="1")
    other = await clients[1].wait_ended()

    assert refused.value.status == 409
    assert refused.value.json()["error"]["code"] == "session_evicted"
    assert told["data"]["code"] == 4509
    assert told["data"]["replaced_by"] == sessions[-1]
    assert other.code == 4509
    again.cut()
    clients[2].cut()


async def test_eviction_reaches_other_pods(
    limited: BrokerServer,
    shared_redis: EmbeddedServer,
    start_broker: StartBroker,
    new_session: Callable[[], str],
    user: str,
) -> None:
    """The oldest session lives on another pod and still goes at once."""
    other = start_broker(shared_redis.url, max_sessions_per_user=LIMIT)
    sessions = [new_session() for _ in range(LIMIT + 1)]
    oldest = await enter(other, sessions[0], user)
    rest = [await enter(limited, name, user) for name in sessions[1:]]
    ended = await oldest.wait_ended(timeout_s=6)

    assert ended.code == 4509
    for client in rest:
        client.cut()


async def test_all_connections_of_an_evicted_session_end(
    limited: BrokerServer, new_session: Callable[[], str], user: str
) -> None:
    """WebSockets, event streams, and subscriptions among others on one socket."""
    first, second, third = (new_session() for _ in range(3))
    frames: list[dict[str, object]] = []
    plain = await enter(limited, first, user)
    stream = await SseClient.connect(
        limited.public, f"/v1/sse/{first}", {"user": user}, on_frame=frames.append
    )
    many = await WebSocketClient.connect(limited.public, "/v1/ws", {"user": user})
    for name in (first, second):
        many.send({"cmd": "subscribe", "data": {"session": name}})
        await many.until("subscribed")
    newest = await enter(limited, third, user)
    told = await many.until("unsubscribed")
    await plain.wait_ended()
    await stream.wait_ended()
    many.send({"cmd": "ping"})
    await many.until("pong")

    assert told["session"] == first
    assert told["data"] == {"reason": "session_evicted", "replaced_by": third}
    assert frames[-1]["event"] == "closing"
    await stream.close()
    many.cut()
    newest.cut()


async def test_other_users_of_the_session_stay(
    limited: BrokerServer, new_session: Callable[[], str], user: str
) -> None:
    """A session is evicted for its user, not for everybody who reads it."""
    sessions = [new_session() for _ in range(LIMIT + 1)]
    guest = await enter(limited, sessions[0], f"guest of {user}")
    nobody = await WebSocketClient.connect(limited.public, f"/v1/ws/{sessions[0]}")
    clients = [await enter(limited, name, user) for name in sessions]
    await clients[0].wait_ended()
    for client in (guest, nobody):
        client.send({"cmd": "ping"})
        await client.until("pong")
        client.cut()
    for client in clients:
        client.cut()


async def test_starting_a_session_by_command_opens_it_again(
    limited: BrokerServer, new_session: Callable[[], str], user: str, redis: Redis
) -> None:
    """start_session is the deliberate act, and reaches the services as well."""
    sessions = [new_session() for _ in range(LIMIT + 1)]
    clients = [await enter(limited, name, user) for name in sessions]
    await clients[0].wait_ended()
    clients[2].send(
        {"cmd": "start_session", "id": "start-0001", "session": sessions[0]}
    )
    ack = await clients[2].until("ack")
    back = await enter(limited, sessions[0], user)
    await clients[1].wait_ended()
    there: Any = await redis.xrange("broker:commands", ack["data"]["id"], "+", 1)
    _id, fields = there[0]

    assert fields[b"cmd"] == b"start_session"
    assert fields[b"session"] == sessions[0].encode()
    back.cut()
    clients[2].cut()


async def test_a_session_that_is_left_becomes_idle_and_then_closed(
    start_broker: StartBroker,
    start_redis: StartRedis,
    redis_at: RedisAt,
    session: str,
    user: str,
) -> None:
    """Services are told, and the place is free again."""
    # Alone on its Redis: any broker of a fleet may sweep, by its own idle time.
    own_redis = start_redis()
    broker = start_broker(
        own_redis.url, session_lease_s=LEASE_S, session_linger_s=0.5, session_idle_s=1
    )
    redis = redis_at(own_redis.url)
    client = await enter(broker, session, user)
    await client.close()
    idle = await lifecycle.until(redis, user, "session_idle")
    closed = await lifecycle.until(redis, user, "session_closed")
    events = [entry["event"] for entry in await lifecycle.entries(redis, user)]

    assert idle["fence"] == closed["fence"]
    assert events == [
        *("session_opened", "connection_opened", "connection_closed"),
        *("session_idle", "session_closed"),
    ]


async def test_a_killed_pod_frees_its_sessions_by_itself(
    shared_redis: EmbeddedServer,
    start_broker: StartBroker,
    new_session: Callable[[], str],
    user: str,
    limited: BrokerServer,
    redis: Redis,
) -> None:
    """Nobody renews its leases: two lease times later they count no more."""
    doomed = start_broker(
        shared_redis.url, max_sessions_per_user=LIMIT, session_lease_s=LEASE_S
    )
    old = [await enter(doomed, new_session(), user) for _ in range(LIMIT)]
    doomed.destroy()
    for client in old:
        await client.wait_ended()
    async with asyncio.timeout(10):
        while [e["event"] for e in await lifecycle.entries(redis, user)].count(
            "session_idle"
        ) < LIMIT:
            await redis.xread({lifecycle.STREAM: "$"}, block=100)
    new = [await enter(limited, new_session(), user) for _ in range(LIMIT)]
    events = [entry["event"] for entry in await lifecycle.entries(redis, user)]

    assert "session_evicted" not in events
    for client in new:
        client.cut()


async def test_a_connection_over_the_limit_takes_the_oldest_ones_place(
    shared_redis: EmbeddedServer, start_broker: StartBroker, session: str
) -> None:
    """If it is configured so; the code keeps the old one from coming back."""
    server = start_broker(
        shared_redis.url,
        workers=1,
        max_connections_per_session=2,
        connection_limit_action="evict_oldest",
    )
    clients = [await enter(server, session, f"u{i}") for i in range(3)]
    closing = await clients[0].until("closing")
    clients[1].send({"cmd": "ping"})
    await clients[1].until("pong")

    assert closing["data"]["code"] == 4512
    for client in clients:
        client.cut()


async def test_a_repeated_start_opens_nothing_that_ended_since(
    limited: BrokerServer, new_session: Callable[[], str], user: str
) -> None:
    """Saying a command again is harmless: what was decided later stands."""
    sessions = [new_session() for _ in range(LIMIT + 1)]
    start = {"cmd": "start_session", "id": f"start-{user}", "session": sessions[0]}
    caller = await WebSocketClient.connect(limited.public, "/v1/ws", {"user": user})
    caller.send(start)
    first = await caller.until("ack")
    clients = [await enter(limited, name, user) for name in sessions]
    await clients[0].wait_ended()
    caller.send(start)
    again = await caller.until("error")
    for client in clients[1:]:
        client.send({"cmd": "ping"})
        await client.until("pong")
        client.cut()

    assert first["data"]["ref"] == start["id"]
    assert again["data"]["code"] == "session_evicted"
    caller.cut()


async def test_a_refused_start_evicts_nobody(
    shared_redis: EmbeddedServer,
    start_broker: StartBroker,
    new_session: Callable[[], str],
    user: str,
    redis: Redis,
) -> None:
    """What is refused as a command has no effect as a deliberate act either."""
    server = start_broker(
        shared_redis.url, max_sessions_per_user=1, command_rate_per_s=1
    )
    caller = await WebSocketClient.connect(server.public, "/v1/ws", {"user": user})
    for _ in range(20):
        caller.send({"cmd": "start_session", "session": new_session()})
    answers = [await caller.frame() for _ in range(21)]
    stored = sum(answer["event"] == "ack" for answer in answers)
    events = [entry["event"] for entry in await lifecycle.entries(redis, user)]

    assert stored == 2
    assert events.count("session_opened") == 2
    assert events.count("session_evicted") == 1
    caller.cut()


async def test_who_has_no_right_takes_nobody_s_place(
    shared_redis: EmbeddedServer, start_broker: StartBroker, session: str
) -> None:
    """A refused newcomer must not close anybody's connection."""
    server = start_broker(
        shared_redis.url,
        workers=1,
        auth="jwt",
        jwt_secret=SECRET,
        max_connections_per_session=1,
        connection_limit_action="evict_oldest",
    )
    kept = await WebSocketClient.connect(
        server.public, f"/v1/ws/{session}", headers=bearer(token("ada"))
    )
    await kept.until("subscribed")
    with pytest.raises(Refused) as refused:
        await WebSocketClient.connect(
            server.public,
            f"/v1/ws/{session}",
            headers=bearer(token("eve", sessions=["other"])),
            subprotocols=(),
        )
    kept.send({"cmd": "ping"})
    await kept.until("pong")

    assert refused.value.status == 403
    kept.cut()


async def test_replacing_the_oldest_keeps_every_limit(
    shared_redis: EmbeddedServer,
    start_broker: StartBroker,
    new_session: Callable[[], str],
) -> None:
    """Room for the user is no room in the session."""
    server = start_broker(
        shared_redis.url,
        workers=1,
        max_sessions_per_user=0,
        max_connections_per_user=1,
        max_connections_per_session=2,
        connection_limit_action="evict_oldest",
    )
    full, other = new_session(), new_session()
    clients = [await enter(server, other, f"u{number}") for number in range(4)]
    clients += [await enter(server, full, f"u{number}") for number in range(4)]
    for client in clients[:6]:
        assert (await client.until("closing"))["data"]["code"] == 4512
    for client in clients[6:]:
        client.send({"cmd": "ping"})
        await client.until("pong")
        client.cut()
