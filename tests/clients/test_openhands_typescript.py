"""OpenHands V1 with its released clients in JavaScript.

That is the client of ``@openhands/typescript-client``, and the hook with which the
current interface, ``@openhands/agent-canvas``, opens its sockets.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import uuid
from typing import Any

import pytest
from redis.asyncio import Redis

from broker.store.embedded import EmbeddedServer
from tests.clients.conftest import HERE, Driver, StartDriver
from tests.conftest import StartBroker
from tests.harness.client import Address, Frame
from tests.harness.conversations import (
    STATE,
    Conversation,
    messages,
    snapshot,
    states,
    time_of,
)
from tests.harness.proxy import FaultProxy
from tests.harness.servers import BrokerServer
from tests.harness.tokens import SECRET, token

RACE = 500
SAID = {"role": "user", "content": [{"type": "text", "text": "hi"}], "run": True}


@pytest.fixture(scope="session")
def canvas() -> str:
    """Where the released files of the interface are; they are fetched once."""
    node = shutil.which("node")
    assert node is not None
    fetch = [node, str(HERE / "fetch_canvas.mjs")]
    return subprocess.run(
        fetch, check=True, capture_output=True, text=True, timeout=50
    ).stdout.strip()


@pytest.fixture
def conversation(redis: Redis) -> Conversation:
    """A conversation of the test's own."""
    return Conversation(redis, str(uuid.uuid4()))


@pytest.fixture
def guarded(start_broker: StartBroker, shared_redis: EmbeddedServer) -> BrokerServer:
    """A broker where a user may have one session."""
    return start_broker(
        shared_redis.url,
        workers=1,
        auth="jwt",
        jwt_secret=SECRET,
        max_sessions_per_user=1,
    )


def url_of(address: Address) -> str:
    return f"http://{address[0]}:{address[1]}"


def program(
    address: Address, conversation: Conversation, key: str | None = None
) -> tuple[str, dict[str, Any]]:
    """How the client of the package is started."""
    argument = {"host": url_of(address), "key": key}
    return "openhands_events.mjs", argument | {"conversation": conversation.session}


def page(
    canvas: str,
    address: Address,
    conversation: Conversation,
    key: str | None = None,
    **query: str,
) -> tuple[str, dict[str, Any]]:
    """How the hook of the interface is started."""
    argument = {"canvas": canvas, "page": url_of(address), "key": key, "query": query}
    return "openhands_canvas.mjs", argument | {"conversation": conversation.session}


def events(driver: Driver) -> list[Frame]:
    """What the client was given."""
    return [line["event"] for line in driver.happened if line["happened"] == "event"]


async def until_message(driver: Driver, number: int) -> list[Frame]:
    """What the client was given, as soon as that message is among it."""
    wanted = f"m{number}"
    given = any(event["id"] == wanted for event in events(driver))
    while not given:
        given = (await driver.until("event"))["event"]["id"] == wanted
    return events(driver)


async def publish_until(
    conversation: Conversation, done: asyncio.Future[Any], least: int
) -> None:
    """Publish one by one until *done*, and at least so many."""
    while conversation.said < least or not done.done():
        await conversation.stream(10)
    await done


# @openhands/typescript-client


async def test_the_client_is_given_the_state_and_then_what_is_live(
    broker: BrokerServer, conversation: Conversation, start_driver: StartDriver
) -> None:
    """It asks for nothing of the past."""
    await conversation.say(3)
    await conversation.show(execution_status="running")
    driver = await start_driver(*program(broker.public, conversation))
    await driver.until("event")
    await conversation.say()
    given = await until_message(driver, 4)

    assert given[0] == snapshot(execution_status="running")
    assert messages(given) == [4]


async def test_the_client_misses_nothing_while_it_connects(
    broker: BrokerServer, conversation: Conversation, start_driver: StartDriver
) -> None:
    """From the first event on they come once and in order."""
    drivers = [
        await start_driver(*program(broker.public, conversation)) for _ in range(3)
    ]
    ready = asyncio.gather(*(driver.until("event") for driver in drivers))
    await publish_until(conversation, ready, RACE)
    await conversation.say()

    for driver in drivers:
        given = await until_message(driver, conversation.said)
        numbers = messages(given)
        assert states(given[:1]) == ["idle"]
        assert numbers == list(range(numbers[0], conversation.said + 1))


async def test_the_client_comes_back_to_another_server(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    conversation: Conversation,
    start_driver: StartDriver,
) -> None:
    """After a code that lets it wait; it is told the state again."""
    old, new = start_broker(shared_redis.url), start_broker(shared_redis.url)
    async with FaultProxy(old.public) as proxy:
        driver = await start_driver(*program(proxy.address, conversation))
        await driver.until("event")
        await conversation.say()
        await until_message(driver, 1)
        proxy.upstream = new.public
        old.signal(signal.SIGTERM)
        left = await driver.until("close")
        await driver.until("open")
        state = await driver.until("event")
        await conversation.say()
        given = await until_message(driver, 2)
        driver.tell({"stop": True})
        await driver.until("close")

    assert left["code"] == 1012
    assert state["event"]["kind"] == STATE
    assert messages(given) == [1, 2]


async def test_the_client_shows_its_key_in_the_url(
    guarded: BrokerServer, conversation: Conversation, start_driver: StartDriver
) -> None:
    """A wrong one is refused before there is a socket."""
    key = token(conversation.session)
    driver = await start_driver(*program(guarded.public, conversation, key))
    stranger = await start_driver(*program(guarded.public, conversation, "wrong"))
    first = await driver.until("event")
    refused = await stranger.until("close")

    assert first["event"]["kind"] == STATE
    assert refused["code"] == 1006
    assert events(stranger) == []


async def test_the_client_is_told_when_its_conversation_is_evicted(
    guarded: BrokerServer, conversation: Conversation, start_driver: StartDriver
) -> None:
    """And again when it comes back, since it knows no code that is for good."""
    other = Conversation(conversation.redis, str(uuid.uuid4()))
    key = token(conversation.session)
    driver = await start_driver(*program(guarded.public, conversation, key))
    await driver.until("event")
    await start_driver(*program(guarded.public, other, key))
    ends = [await driver.until("close"), await driver.until("close")]
    given = events(driver)

    assert [end["code"] for end in ends] == [4004, 4004]
    assert [event.get("code") for event in given[1:]] == [
        "SessionEvicted",
        "SessionEvicted",
    ]
    assert other.session in given[1]["detail"]


# @openhands/agent-canvas


async def test_the_page_is_given_the_state_the_past_and_what_is_live(
    broker: BrokerServer,
    conversation: Conversation,
    canvas: str,
    start_driver: StartDriver,
) -> None:
    """It has asked for everything."""
    await conversation.say(3)
    await conversation.show(execution_status="running")
    start = page(canvas, broker.public, conversation, resend_mode="all")
    driver = await start_driver(*start)
    await driver.until("open")
    await until_message(driver, 3)
    await conversation.say()
    given = await until_message(driver, 4)

    assert given[0] == snapshot(execution_status="running")
    assert messages(given) == [1, 2, 3, 4]


async def test_the_page_misses_nothing_while_it_connects(
    broker: BrokerServer,
    conversation: Conversation,
    canvas: str,
    start_driver: StartDriver,
) -> None:
    """The past and what is live come once and in order."""
    await conversation.say(100)
    start = page(canvas, broker.public, conversation, resend_mode="all")
    drivers = [await start_driver(*start) for _ in range(3)]
    ready = asyncio.gather(*(driver.until("event") for driver in drivers))
    await publish_until(conversation, ready, 100 + RACE)

    for driver in drivers:
        given = await until_message(driver, conversation.said)
        assert states(given[:1]) == ["idle"]
        assert messages(given) == list(range(1, conversation.said + 1))


async def test_the_page_resumes_on_another_server_from_the_time_it_knows(
    start_broker: StartBroker,
    shared_redis: EmbeddedServer,
    conversation: Conversation,
    canvas: str,
    start_driver: StartDriver,
) -> None:
    """It asks with the time that it began with, and drops what it has by id."""
    old, new = start_broker(shared_redis.url), start_broker(shared_redis.url)
    await conversation.say(50)
    async with FaultProxy(old.public) as proxy:
        query = {"resend_mode": "since", "after_timestamp": time_of(40)}
        start = page(canvas, proxy.address, conversation, **query)
        driver = await start_driver(*start)
        first = messages(await until_message(driver, 50))
        proxy.upstream = new.public
        old.signal(signal.SIGTERM)
        left = await driver.until("close")
        await conversation.say(50)
        both = messages(await until_message(driver, 100))
        driver.tell({"disconnect": True})
        await driver.until("close")

    assert left["code"] == 1012
    assert first == list(range(40, 51))
    assert both == [*first, *range(40, 101)]


async def test_the_page_shows_its_key_in_the_first_frame(
    guarded: BrokerServer,
    conversation: Conversation,
    canvas: str,
    start_driver: StartDriver,
) -> None:
    """It is told nothing before; a wrong key is told by a code."""
    key = token(conversation.session)
    driver = await start_driver(*page(canvas, guarded.public, conversation, key))
    start = page(canvas, guarded.public, conversation, "wrong")
    stranger = await start_driver(*start)
    first = await driver.until("event")
    refused = await stranger.until("close")

    assert first["event"]["kind"] == STATE
    assert (refused["code"], refused["reason"]) == (4001, "Authentication failed")
    assert events(stranger) == []


async def test_the_page_says_what_its_user_types(
    broker: BrokerServer,
    conversation: Conversation,
    canvas: str,
    start_driver: StartDriver,
) -> None:
    """What cannot be understood comes back as an error that it shows."""
    driver = await start_driver(*page(canvas, broker.public, conversation))
    await driver.until("event")
    driver.tell({"send": json.dumps(SAID)})
    driver.tell({"send": "hello"})
    answer = await driver.until("event")
    commands = await conversation.commands(1)

    assert answer["event"]["kind"] == "ServerErrorEvent"
    assert answer["event"]["code"] == "JSONDecodeError"
    assert [json.loads(one["data"]) for one in commands] == [SAID]


async def test_the_page_is_told_when_its_conversation_is_evicted(
    guarded: BrokerServer,
    conversation: Conversation,
    canvas: str,
    start_driver: StartDriver,
) -> None:
    """In an error that it shows, before the code."""
    other = Conversation(conversation.redis, str(uuid.uuid4()))
    key = token(conversation.session)
    driver = await start_driver(*page(canvas, guarded.public, conversation, key))
    await driver.until("event")
    await start_driver(*page(canvas, guarded.public, other, key))
    told = await driver.until("event")
    end = await driver.until("close")

    assert told["event"]["kind"] == "ServerErrorEvent"
    assert told["event"]["code"] == "SessionEvicted"
    assert other.session in told["event"]["detail"]
    assert end["code"] == 4004
