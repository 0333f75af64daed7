"""OpenHands V0 with socket.io-client as it is installed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from broker.store.embedded import EmbeddedServer
from tests.clients.conftest import Driver, StartDriver
from tests.conftest import StartBroker
from tests.harness.client import Address
from tests.harness.openhands_v0 import ids, message, publish, state
from tests.harness.proxy import FaultProxy
from tests.harness.servers import BrokerServer
from tests.harness.tokens import SECRET, token

RACE = 500


def page(address: Address, session: str | None, **options: Any) -> dict[str, Any]:
    """What a page gives to the library; ``latest_event_id`` is its own."""
    latest = options.pop("latest_event_id", -1)
    query = {
        "latest_event_id": latest,
        "conversation_id": session,
        "providers_set": ["github", "gitlab"],
        "session_api_key": None,
    }
    url = f"http://{address[0]}:{address[1]}"
    return {"url": url, "query": query, "options": options}


def events(driver: Driver) -> list[Any]:
    """All events that the page has got."""
    return [line["event"] for line in driver.happened if line["happened"] == "oh_event"]


async def until_events(driver: Driver, count: int) -> list[Any]:
    """All events that the page has got, as soon as there are so many."""
    while len(events(driver)) < count:
        await driver.until("oh_event")
    return events(driver)


async def publish_during(
    work: asyncio.Future[Any], redis: Redis, session: str, least: int
) -> int:
    """Publish until *work* is done, *least* at least; returns how many it were."""
    count = 0
    while count < least or not work.done():
        await publish(redis, session, [message(count)])
        count += 1
    await work
    return count


async def test_a_replay_comes_before_the_library_says_connect(
    broker: BrokerServer, redis: Redis, session: str, start_driver: StartDriver
) -> None:
    """With the agent's newest state last; then events are live."""
    await publish(redis, session, [message(0), state(1, "loading")])
    await publish(redis, session, [state(2, "running"), message(3)])
    driver = await start_driver("socketio_page.mjs", page(broker.public, session))
    await driver.until("connect")
    replayed = events(driver)
    await publish(redis, session, [message(4)])
    live = await driver.next()

    assert replayed == [message(0), message(3), state(2, "running")]
    assert live == {"happened": "oh_event", "event": message(4)}


async def test_what_is_published_while_it_connects_comes_once_and_in_order(
    broker: BrokerServer, redis: Redis, session: str, start_driver: StartDriver
) -> None:
    """Some of it before it is connected and some live."""
    drivers = [
        await start_driver("socketio_page.mjs", page(broker.public, session))
        for _ in range(3)
    ]
    connecting = asyncio.gather(*(driver.until("connect") for driver in drivers))
    count = await publish_during(connecting, redis, session, RACE)

    for driver in drivers:
        assert ids(await until_events(driver, count)) == list(range(count))


async def test_it_resumes_by_itself_after_cuts_and_a_new_server(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    redis: Redis,
    session: str,
    start_driver: StartDriver,
) -> None:
    """A page sees each event once, wherever the connection broke."""
    old, new = start_broker(shared_redis.url), start_broker(shared_redis.url)
    async with FaultProxy(old.public) as proxy:
        driver = await start_driver("socketio_page.mjs", page(proxy.address, session))
        await driver.until("connect")
        await publish(redis, session, map(message, range(100)))
        await until_events(driver, 50)
        proxy.cut()
        cut = await driver.until("disconnect")
        await publish(redis, session, map(message, range(100, 200)))
        await until_events(driver, 200)
        proxy.upstream = new.public
        old.signal(signal.SIGTERM)
        left = await driver.until("disconnect")
        await publish(redis, session, map(message, range(200, 300)))
        got = await until_events(driver, 300)
        driver.tell({"close": True})
        await driver.until("disconnect")

    assert ids(got) == list(range(300))
    assert cut["active"]
    assert left == {
        "happened": "disconnect",
        "reason": "transport close",
        "active": True,
    }
    assert old.wait() == 0


async def test_an_action_is_acknowledged(
    broker: BrokerServer, redis: Redis, session: str, start_driver: StartDriver
) -> None:
    """When it is stored, as it was sent."""
    driver = await start_driver("socketio_page.mjs", page(broker.public, session))
    await driver.until("connect")
    action = {"action": "message", "args": {"content": "hi", "image_urls": []}}
    driver.tell({"emit": ["oh_user_action", action], "ack": True})
    acknowledged = await driver.next()
    stored: Any = await redis.xrevrange("broker:commands", count=1)
    fields = stored[0][1]

    assert acknowledged == {"happened": "ack", "answer": []}
    assert fields[b"session"].decode() == session
    assert fields[b"cmd"] == b"oh_user_action"
    assert fields[b"data"] == (
        b'{"action":"message","args":{"content":"hi","image_urls":[]}}'
    )


async def test_what_cannot_be_done_is_an_error_event(
    broker: BrokerServer, session: str, start_driver: StartDriver
) -> None:
    """The page shows it; the connection stays."""
    driver = await start_driver("socketio_page.mjs", page(broker.public, session))
    await driver.until("connect")
    driver.tell({"emit": ["oh_user_action", "no object"]})
    error = await driver.next()
    driver.tell({"emit": ["other"], "ack": True})

    assert error["event"] == {"error": True, "message": "an action is one object"}
    assert await driver.next() == {"happened": "ack", "answer": []}


@pytest.mark.parametrize("session", [None, ""], ids=["null", "empty"])
async def test_a_refusal_is_a_connect_error_and_final(
    broker: BrokerServer, session: str | None, start_driver: StartDriver
) -> None:
    """The library does not try again by itself."""
    driver = await start_driver("socketio_page.mjs", page(broker.public, session))

    assert await driver.next() == {
        "happened": "connect_error",
        "message": "No conversation_id in query params",
        "data": None,
        "active": False,
    }


async def test_an_evicted_page_stays_away_and_its_user_may_open_it_again(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    new_session: Callable[[], str],
    start_driver: StartDriver,
) -> None:
    """The library does not reconnect after the server's disconnect packet."""
    broker = start_broker(
        shared_redis.url, auth="jwt", jwt_secret=SECRET, max_sessions_per_user=1
    )
    first, second = new_session(), new_session()
    auth = {"token": token(f"user of {first}")}

    async def open_page(session: str, **query: int) -> Driver:
        argument = page(broker.public, session, auth=auth, **query)
        return await start_driver("socketio_page.mjs", argument)

    old = await open_page(first)
    await old.until("connect")
    new = await open_page(second)
    await new.until("connect")
    notice = await old.until("oh_event")
    left = await old.next()
    refused = await (await open_page(first, latest_event_id=0)).next()
    again = await open_page(first)
    await again.until("connect")
    replaced = await new.until("disconnect")

    assert notice["event"]["id"] == "AGENT_ERROR$TOO_MANY_CONVERSATIONS"
    assert left == {
        "happened": "disconnect",
        "reason": "io server disconnect",
        "active": False,
    }
    assert refused["message"].startswith("Too many conversations at once.")
    assert refused["data"]["code"] == 4509
    assert not refused["active"]
    assert replaced["reason"] == "io server disconnect"


async def test_pings_keep_an_idle_page(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    session: str,
    start_driver: StartDriver,
) -> None:
    """It answers them; neither side takes the other for dead."""
    broker = start_broker(shared_redis.url, heartbeat_s=0.5)
    driver = await start_driver("socketio_page.mjs", page(broker.public, session))
    await driver.until("connect")
    lines = [await driver.next() for _ in range(4)]

    assert lines == [{"happened": "ping"}] * 4


async def test_overload_is_tried_again(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    session: str,
    start_driver: StartDriver,
) -> None:
    """The library stays active and gets in as soon as there is room."""
    broker = start_broker(shared_redis.url, workers=1, max_connections=1)
    first = await start_driver("socketio_page.mjs", page(broker.public, session))
    await first.until("connect")
    second = await start_driver("socketio_page.mjs", page(broker.public, session))
    refused = await second.next()
    first.tell({"close": True})
    await second.until("connect")

    assert refused["active"]
